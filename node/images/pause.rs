//! The process of a pod's sandbox: holds the pod's namespaces open, takes in orphaned processes, and ends when
//! told to. Built statically, so that it runs in an empty image.
//!
//! As every node has its image, it also does what clearing up local volumes needs: `pause remove DIR` deletes a
//! folder with everything in it, `pause scrub DIR` only what is in it. Symbolic links are deleted, never followed.

use std::ffi::c_int;
use std::path::Path;
use std::{env, fs, io};

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
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (dir, done) = match words.as_slice() {
        ["remove", dir] => (dir, remove(Path::new(dir))),
        ["scrub", dir] => (dir, scrub(Path::new(dir))),
        _ => hold(),
    };
    if let Err(error) = done {
        eprintln!("{dir}: {error}");
        std::process::exit(1);
    }
}

/// Deletes whatever is at the path; nothing there is fine.
fn remove(path: &Path) -> io::Result<()> {
    let done = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn scrub(dir: &Path) -> io::Result<()> {
    fs::read_dir(dir)?.try_for_each(|entry| remove(&entry?.path()))
}

/// Holds the sandbox.
fn hold() -> ! {
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
