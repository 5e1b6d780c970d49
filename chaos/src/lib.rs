//! Faults, workloads, checkers, simulation and reports.
