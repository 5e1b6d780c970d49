//! Cgroups as systemd's slices: made, limited and stopped by asking it over D-Bus with its own `busctl`. What is asked is
//! pure; one function runs the program.
//!
//! The properties are those that upstream's library sets. systemd rounds quotas to hundredths of a processor, and writes its
//! own values again when it is reloaded: who calls this writes the exact ones to the kernel's files afterwards.

use std::io;

use tokio::process::Command;

use crate::kubelet::cgroup_limits::{Limits, cpu_weight};
use crate::kubelet::cri::resources::QUOTA_PERIOD_MICROS;

/// How long systemd may take for an answer, seconds.
const ANSWER_LIMIT: &str = "--timeout=10";
/// systemd's quota is a multiple of this: microseconds a second.
const QUOTA_STEP: u64 = 10_000;

/// The path below a controller's tree of the slice with these names from the root on: each slice lies in the one whose name
/// is its beginning.
pub fn path(names: &[String]) -> String {
    let escaped: Vec<String> = names.iter().map(|n| n.replace('-', "_")).collect();
    let slices = (1..=escaped.len()).map(|n| format!("{}.slice", escaped[..n].join("-")));
    slices.collect::<Vec<_>>().join("/")
}

/// The unit at the end of a path.
pub fn unit(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Name, D-Bus type and values of a property, as `busctl` takes them.
type Property = Vec<String>;

fn property(name: &str, kind: &str, values: &[&str]) -> Property {
    [name, kind].iter().chain(values).map(|&s| s.to_owned()).collect()
}

fn number(name: &str, value: u64) -> Property {
    property(name, "t", &[&value.to_string()])
}

/// Limits in systemd's words.
fn limit_properties(limits: Limits, unified: bool) -> Vec<Property> {
    let positive = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    let period = QUOTA_PERIOD_MICROS.unsigned_abs();
    let per_second = |quota: u64| (quota * 1_000_000 / period).next_multiple_of(QUOTA_STEP);
    let (weight, memory) =
        if unified { (cpu_weight(limits.shares), "MemoryMax") } else { (limits.shares, "MemoryLimit") };
    let weight = number(if unified { "CPUWeight" } else { "CPUShares" }, weight.unsigned_abs());
    let quota = positive(limits.quota).map(|quota| number("CPUQuotaPerSecUSec", per_second(quota)));
    let memory = positive(limits.memory).map(|bytes| number(memory, bytes));
    let tasks = positive(limits.pids).map(|count| number("TasksMax", count));
    [Some(weight), quota, memory, tasks].into_iter().flatten().collect()
}

/// How a new slice is made beside its limits.
fn unit_properties(path: &str) -> Vec<Property> {
    let description = format!("pods of {}", unit(path));
    let mut properties = vec![
        property("Description", "s", &[&description]),
        property("DefaultDependencies", "b", &["false"]),
        property("CPUAccounting", "b", &["true"]),
        property("MemoryAccounting", "b", &["true"]),
        property("TasksAccounting", "b", &["true"]),
    ];
    if let Some((above, _)) = path.rsplit_once('/') {
        properties.push(property("Wants", "as", &["1", unit(above)]));
    }
    properties
}

/// A call of systemd's manager with words before and after a list of properties.
fn call(method: &str, signature: &str, words: &[&str], properties: Vec<Property>) -> Vec<String> {
    const MANAGER: [&str; 4] =
        ["call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    let head = [ANSWER_LIMIT, "--quiet"].into_iter().chain(MANAGER).chain([method, signature]);
    let mut all: Vec<String> = head.chain(words.iter().copied()).map(str::to_owned).collect();
    if signature.contains("a(sv)") {
        all.push(properties.len().to_string());
        all.extend(properties.into_iter().flatten());
    }
    all
}

fn start_call(path: &str, limits: Limits, unified: bool) -> Vec<String> {
    let properties = [unit_properties(path), limit_properties(limits, unified)].concat();
    let mut all = call("StartTransientUnit", "ssa(sv)a(sa(sv))", &[unit(path), "replace"], properties);
    // No units beside it.
    all.push("0".to_owned());
    all
}

fn set_call(path: &str, limits: Limits, unified: bool) -> Vec<String> {
    call("SetUnitProperties", "sba(sv)", &[unit(path), "true"], limit_properties(limits, unified))
}

fn stop_call(path: &str) -> Vec<String> {
    call("StopUnit", "ss", &[unit(path), "replace"], vec![])
}

async fn ask(arguments: Vec<String>) -> io::Result<()> {
    let mut command = Command::new("busctl");
    // busctl reports its own failures to the service manager, which is listening to the agent.
    let command = command.args(&arguments).env_remove("NOTIFY_SOCKET").kill_on_drop(true);
    let output = command.output().await;
    let output =
        output.map_err(|error| io::Error::new(error.kind(), format!("cannot run busctl: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let (method, unit) = (&arguments[6], &arguments[8]);
    Err(io::Error::other(format!("systemd refuses {method} of {unit}: {}", said.trim())))
}

/// Makes a slice, or gives one that is there these limits.
pub async fn ensure(path: &str, limits: Limits, unified: bool) -> io::Result<()> {
    let Err(why) = ask(start_call(path, limits, unified)).await else { return Ok(()) };
    // There is one, or none can be made: only systemd knows, and its words for it are for people.
    renew(path, limits, unified).await.map_err(|_| why)
}

/// Gives a slice that is there these limits.
pub async fn renew(path: &str, limits: Limits, unified: bool) -> io::Result<()> {
    ask(set_call(path, limits, unified)).await
}

/// Stops a slice.
pub async fn stop(path: &str) -> io::Result<()> {
    ask(stop_call(path)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice";

    fn limits() -> Limits {
        Limits { shares: 256, quota: Some(50_500), memory: Some(64 << 20), pids: Some(77) }
    }

    #[test]
    fn slices_lie_in_those_whose_name_they_begin_with() {
        let check = |names: &[&str], expected: &str| {
            assert_eq!(path(&names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()), expected);
        };
        check(&["kubepods"], "kubepods.slice");
        check(&["kubepods", "burstable", "poda-b"], POD);
        check(&["lab-1", "kubepods"], "lab_1.slice/lab_1-kubepods.slice");
        assert_eq!(unit(POD), "kubepods-burstable-poda_b.slice");
    }

    #[test]
    fn limits_are_upstreams_properties() {
        let check = |limits: Limits, unified: bool, expected: &str| {
            let words = limit_properties(limits, unified).concat().join(" ");
            assert_eq!(words, expected, "{limits:?} {unified}");
        };
        let all = "CPUQuotaPerSecUSec t 510000";
        check(limits(), true, &format!("CPUWeight t 10 {all} MemoryMax t 67108864 TasksMax t 77"));
        check(limits(), false, &format!("CPUShares t 256 {all} MemoryLimit t 67108864 TasksMax t 77"));
        let weight = Limits { shares: 2, ..Default::default() };
        check(weight, true, "CPUWeight t 1");
        check(weight, false, "CPUShares t 2");
        check(Limits { quota: Some(200_000), ..weight }, true, "CPUWeight t 1 CPUQuotaPerSecUSec t 2000000");
        check(Limits { quota: Some(1_000), ..weight }, true, "CPUWeight t 1 CPUQuotaPerSecUSec t 10000");
        check(Limits { quota: Some(-1), memory: Some(0), ..weight }, true, "CPUWeight t 1");
    }

    #[test]
    fn calls_are_what_busctl_takes() {
        let check = |call: Vec<String>, expected: &str| {
            let manager =
                "call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager";
            assert_eq!(call.join(" "), format!("--timeout=10 --quiet {manager} {expected}"));
        };
        let limits = Limits { shares: 2, ..Default::default() };
        let accounting = "CPUAccounting b true MemoryAccounting b true TasksAccounting b true";
        check(
            start_call("kubepods.slice", limits, true),
            &format!(
                "StartTransientUnit ssa(sv)a(sa(sv)) kubepods.slice replace 6 Description s pods of kubepods.slice \
                 DefaultDependencies b false {accounting} CPUWeight t 1 0"
            ),
        );
        let start = start_call(POD, limits, false);
        let wants = start.windows(4).any(|w| w == ["Wants", "as", "1", "kubepods-burstable.slice"]);
        assert!(wants, "{start:?}");
        check(
            set_call(POD, limits, false),
            "SetUnitProperties sba(sv) kubepods-burstable-poda_b.slice true 1 CPUShares t 2",
        );
        check(stop_call(POD), "StopUnit ss kubepods-burstable-poda_b.slice replace");
    }
}
