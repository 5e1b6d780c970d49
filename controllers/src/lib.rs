//! One loop per kind of promise: the controllers of kube-controller-manager.
