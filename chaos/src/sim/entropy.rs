//! Randomness from the seed: in a simulation's process, whoever asks the operating system for random bytes gets the
//! seed's. That reaches hash maps, thread-local generators and every library, none of which can be told otherwise.
//!
//! The function takes the C library's place in this program, which is the harness and never the product. Until
//! [`replace`] is called it does what the C library does. Threads beside the simulating one (the database's, which write
//! files in the background) draw from a source of their own: they come when they come, and must not shift what the
//! simulation draws next.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// The thread that simulates; zero: none.
static SIMULATING: AtomicI32 = AtomicI32::new(0);
static SOURCE: Mutex<Option<StdRng>> = Mutex::new(None);
static SOURCE_BESIDE: Mutex<Option<StdRng>> = Mutex::new(None);

/// From now on, in all of this process; this thread is the one that simulates. To be called before any other thread or
/// any hash map is made.
pub fn replace(seed: u64) {
    if let (Ok(mut source), Ok(mut beside)) = (SOURCE.lock(), SOURCE_BESIDE.lock()) {
        *source = Some(StdRng::seed_from_u64(seed));
        *beside = Some(StdRng::seed_from_u64(!seed));
        SIMULATING.store(this_thread(), Ordering::SeqCst);
    }
}

fn this_thread() -> i32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// The C library's `getrandom`.
///
/// # Safety
/// `buffer` must be writable for `length` bytes, as the C library demands.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let simulating = SIMULATING.load(Ordering::SeqCst);
    if simulating == 0 {
        // SAFETY: the caller's promise, passed on.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as libc::ssize_t;
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    let source = if this_thread() == simulating { &SOURCE } else { &SOURCE_BESIDE };
    match source.lock() {
        Ok(mut source) => {
            if let Some(source) = source.as_mut() {
                source.fill_bytes(bytes);
            }
            length as libc::ssize_t
        }
        Err(_) => -1,
    }
}
