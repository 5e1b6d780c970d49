//! Keeps a server's memory as small as what it holds: many small objects, from many threads.
//!
//! Both settings are the process's own and pass to its children, so only roles that start none use them.

/// Arenas of the C library's allocator, which RocksDB uses. The default, eight a core, keeps freed memory in each.
const ARENAS_MAX: nix::libc::c_int = 2;

/// Turns off huge pages, which make a small heap resident in steps of two megabytes, and spare arenas. To be called
/// before the threads start; what fails only costs memory.
pub fn keep_small() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes a number of the allocator; no other thread runs yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS_MAX);
    }
}
