//! The process of a pod's sandbox: holds the pod's namespaces open, takes in orphaned processes, and ends when
//! told to. Built statically, so that it runs in an empty image.

use std::ffi::c_int;

type Handler = extern "C" fn(c_int);

unsafe extern "C" {
    fn signal(number: c_int, handler: Handler) -> usize;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn pause() -> c_int;
    fn _exit(code: c_int) -> !;
}

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
const WNOHANG: c_int = 1;

extern "C" fn end(_: c_int) {
    // SAFETY: `_exit` may be called from a signal handler.
    unsafe { _exit(0) }
}

extern "C" fn reap(_: c_int) {
    // SAFETY: `waitpid` may be called from a signal handler; no status is wanted.
    while unsafe { waitpid(-1, std::ptr::null_mut(), WNOHANG) } > 0 {}
}

fn main() {
    // SAFETY: the handlers only call functions that are safe in signal handlers.
    unsafe {
        signal(SIGINT, end);
        signal(SIGTERM, end);
        signal(SIGCHLD, reap);
        loop {
            pause();
        }
    }
}
