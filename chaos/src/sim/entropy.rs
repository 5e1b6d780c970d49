//! Randomness from the seed: in a simulation's process, whoever asks the operating system for random bytes gets the
//! seed's. That reaches hash maps, thread-local generators and every library, none of which can be told otherwise.
//!
//! The function takes the C library's place in this program, which is the harness and never the product. Until
//! [`replace`] is called it does what the C library does.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

static REPLACED: AtomicBool = AtomicBool::new(false);
static SOURCE: Mutex<Option<StdRng>> = Mutex::new(None);

/// From now on, in all of this process. To be called before any thread or hash map is made.
pub fn replace(seed: u64) {
    if let Ok(mut source) = SOURCE.lock() {
        *source = Some(StdRng::seed_from_u64(seed));
        REPLACED.store(true, Ordering::SeqCst);
    }
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
    if !REPLACED.load(Ordering::SeqCst) {
        // SAFETY: the caller's promise, passed on.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as libc::ssize_t;
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    match SOURCE.lock() {
        Ok(mut source) => {
            if let Some(source) = source.as_mut() {
                source.fill_bytes(bytes);
            }
            length as libc::ssize_t
        }
        Err(_) => -1,
    }
}
