//! A clock of its own for one running process, whatever it is written in.
//!
//! Programs ask for the time without entering the kernel, by a function the kernel maps into each of them (the vDSO). In
//! the member's own copy of that page the function is replaced by one that asks the kernel and then adds an offset, which
//! may be changed at any time. It works for static binaries as well, and touches no other process. Timers that the
//! kernel keeps, such as a sleep that has begun, are not moved. Linux on x86-64 only, with the right to trace the member.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Error, Result};

/// Adds to what `clock_gettime` answers: one of two sets of offsets, chosen by an index, so that a change is never seen
/// half done. In words: call the kernel; on success take the wall clock's offset for clocks 0 and 5, the monotonic one
/// for 1, 4, 6 and 7, none for others; add seconds and nanoseconds and carry.
const CODE: [u8; 0x6b] = [
    0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228 (clock_gettime)
    0x0f, 0x05, // syscall
    0x85, 0xc0, 0x75, 0x5f, // test eax, eax; jne out
    0x4c, 0x8b, 0x0d, 0x5e, 0x00, 0x00, 0x00, // mov r9, [index]
    0x49, 0xc1, 0xe1, 0x05, // shl r9, 5
    0x4c, 0x8d, 0x05, 0x5b, 0x00, 0x00, 0x00, // lea r8, [sets]
    0x4d, 0x01, 0xc8, // add r8, r9
    0x85, 0xff, 0x74, 0x1f, // test edi, edi; je apply
    0x83, 0xff, 0x05, 0x74, 0x1a, // cmp edi, 5; je apply
    0x49, 0x83, 0xc0, 0x10, // add r8, 16
    0x83, 0xff, 0x01, 0x74, 0x11, // cmp edi, 1; je apply
    0x83, 0xff, 0x04, 0x74, 0x0c, // cmp edi, 4; je apply
    0x83, 0xff, 0x06, 0x74, 0x07, // cmp edi, 6; je apply
    0x83, 0xff, 0x07, 0x74, 0x02, // cmp edi, 7; je apply
    0xeb, 0x27, // jmp out
    0x49, 0x8b, 0x08, 0x48, 0x01, 0x0e, // apply: mov rcx, [r8]; add [rsi], rcx
    0x49, 0x8b, 0x48, 0x08, 0x48, 0x03, 0x4e, 0x08, // mov rcx, [r8+8]; add rcx, [rsi+8]
    0x48, 0x81, 0xf9, 0x00, 0xca, 0x9a, 0x3b, // cmp rcx, 1000000000
    0x7c, 0x0a, // jl store
    0x48, 0x81, 0xe9, 0x00, 0xca, 0x9a, 0x3b, // sub rcx, 1000000000
    0x48, 0xff, 0x06, // inc qword [rsi]
    0x48, 0x89, 0x4e, 0x08, // store: mov [rsi+8], rcx
    0x31, 0xc0, // xor eax, eax
    0xc3, // out: ret
];
/// Where the index stands behind the function's start; the two sets follow it.
const INDEX_AT: u64 = 0x70;
const SETS_AT: u64 = 0x78;
const SET_BYTES: u64 = 32;
/// Function and data.
const TOTAL_BYTES: u64 = SETS_AT + 2 * SET_BYTES;
/// A member with a thread that stands in the function is let go and stopped again.
const ATTEMPTS_MAX: u32 = 50;
/// A thread stops when a processor lets it run next: on a busy machine that takes a while.
const STOPPED_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(1);

/// Nanoseconds added to a process's clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub wall: i128,
    pub monotonic: i128,
}

impl Offsets {
    fn bytes(self) -> [u8; SET_BYTES as usize] {
        let mut bytes = [0; SET_BYTES as usize];
        let parts = [self.wall, self.monotonic].into_iter().flat_map(|nanos| {
            let second = 1_000_000_000;
            [nanos.div_euclid(second) as i64, nanos.rem_euclid(second) as i64]
        });
        for (part, place) in parts.zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&part.to_le_bytes());
        }
        bytes
    }
}

/// The clocks of one process. Its offsets stay when this is dropped, and go with the process.
pub struct Skew {
    memory: File,
    function: u64,
    pid: u32,
}

impl Skew {
    /// Replaces the process's function, unless that has been done before.
    pub fn attach(pid: u32) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Io { path: format!("/proc/{pid}/mem").into(), error };
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(Error::Unsupported("clocks can be set on Linux on x86-64 only".into()));
        }
        let memory =
            File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).map_err(failed)?;
        let (start, length) = vdso(pid)?;
        let mut image = vec![0; length];
        memory.read_exact_at(&mut image, start).map_err(failed)?;
        let (offset, size) = symbol(&image, b"__vdso_clock_gettime")
            .filter(|(_, size)| *size >= TOTAL_BYTES)
            .ok_or_else(|| Error::Unsupported("the kernel's clock function cannot be replaced".into()))?;
        let skew = Skew { memory, function: start + offset, pid };
        let is_replaced = image[offset as usize..].starts_with(&CODE);
        if !is_replaced {
            skew.replace(size)?;
        }
        Ok(skew)
    }

    fn replace(&self, size: u64) -> Result<()> {
        let mut code = CODE.to_vec();
        code.resize(TOTAL_BYTES as usize, 0);
        for _ in 0..ATTEMPTS_MAX {
            self.signal(Signal::SIGSTOP)?;
            let outcome = match self.is_clear(size) {
                true => self.write(0, &code).map(|()| true),
                false => Ok(false),
            };
            self.signal(Signal::SIGCONT)?;
            if outcome? {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        Err(Error::NotInflicted("the member never stopped reading its clock".into()))
    }

    /// Waits until every thread of the process stands, and says whether none stands in the function.
    fn is_clear(&self, size: u64) -> bool {
        let function = self.function..self.function + size;
        let began = Instant::now();
        while began.elapsed() < STOPPED_WITHIN {
            if let Some(counters) = self.counters() {
                return !counters.iter().any(|at| function.contains(at));
            }
            std::thread::sleep(POLL);
        }
        false
    }

    /// Where each thread of the process stands; nothing while one of them runs.
    fn counters(&self) -> Option<Vec<u64>> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let counter = |thread: std::fs::DirEntry| {
            let state = std::fs::read_to_string(thread.path().join("syscall")).ok()?;
            u64::from_str_radix(state.split_whitespace().last()?.strip_prefix("0x")?, 16).ok()
        };
        threads.flatten().map(counter).collect()
    }

    /// Changes the offsets, at one instant.
    pub fn set(&self, offsets: Offsets) -> Result<()> {
        let mut index = [0; 8];
        self.read(INDEX_AT, &mut index)?;
        let other = 1 - u64::from_le_bytes(index).min(1);
        self.write(SETS_AT + other * SET_BYTES, &offsets.bytes())?;
        self.write(INDEX_AT, &other.to_le_bytes())
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read_exact_at(bytes, self.function + at).map_err(|error| self.failed(error))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write_all_at(bytes, self.function + at).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::Io { path: format!("/proc/{}/mem", self.pid).into(), error }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let failed = |stderr: String| Error::Command { command: format!("{signal} {}", self.pid), stderr };
        let pid = i32::try_from(self.pid).map_err(|error| failed(error.to_string()))?;
        kill(Pid::from_raw(pid), signal).map_err(|errno| failed(errno.to_string()))
    }
}

/// Where the page begins, and its length.
fn vdso(pid: u32) -> Result<(u64, usize)> {
    let path = format!("/proc/{pid}/maps");
    let maps = std::fs::read_to_string(&path).map_err(|error| Error::Io { path: path.into(), error })?;
    let found = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some((hex(start)?, (hex(end)? - hex(start)?) as usize))
    });
    found.ok_or_else(|| Error::Unsupported("the process has no vDSO".into()))
}

/// Offset and size of a function in an ELF image; nothing if the image is not as expected.
fn symbol(image: &[u8], name: &[u8]) -> Option<(u64, u64)> {
    const DYNAMIC_SYMBOLS: u64 = 11;
    let number = |at: usize, bytes: usize| {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(image.get(at..at + bytes)?);
        Some(u64::from_le_bytes(word))
    };
    let sections = number(0x28, 8)? as usize;
    let (entry, count) = (number(0x3a, 2)? as usize, number(0x3c, 2)? as usize);
    let section = |at: usize| sections + at * entry;
    let symbols = (0..count).find(|&at| number(section(at) + 4, 4) == Some(DYNAMIC_SYMBOLS))?;
    let (offset, size) = (number(section(symbols) + 0x18, 8)? as usize, number(section(symbols) + 0x20, 8)?);
    let names = number(section(symbols) + 0x28, 4)? as usize;
    let names = number(section(names) + 0x18, 8)? as usize;
    let found = (0..size as usize / 24).map(|at| offset + at * 24).find(|&at| {
        let text = number(at, 4).and_then(|start| image.get(names + start as usize..));
        text.is_some_and(|text| text.starts_with(name) && text.get(name.len()) == Some(&0))
    })?;
    Some((number(found + 8, 8)?, number(found + 16, 8)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn offsets_are_seconds_and_nanoseconds_that_are_never_negative() {
        let offsets = Offsets { wall: -1, monotonic: 2_500_000_000 };
        let words: Vec<i64> = offsets
            .bytes()
            .chunks_exact(8)
            .map(|word| i64::from_le_bytes(word.try_into().expect("8")))
            .collect();
        assert_eq!(words, [-1, 999_999_999, 2, 500_000_000]);
    }

    /// A process of ours that prints the wall clock whenever it is asked.
    #[test]
    fn a_process_sees_the_time_it_is_given() {
        // A shell asks by `time`, which is another function; most programs ask as this one does.
        let script = "import sys, time\nfor line in sys.stdin: print(int(time.time()), flush=True)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let (mut input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
        let mut ask = || -> i64 {
            std::io::Write::write_all(&mut input, b"\n").expect("asked");
            lines.next().expect("answered").expect("read").parse().expect("seconds")
        };
        let before = ask();
        let skew = Skew::attach(child.id()).expect("attached");
        for hours in [5, -5] {
            skew.set(Offsets { wall: hours * 3_600_000_000_000, monotonic: 0 }).expect("set");
            let apart = ask() - before - hours as i64 * 3_600;
            assert!((0..60).contains(&apart), "{hours} hours: {apart} s");
        }
        Skew::attach(child.id()).expect("a second time").set(Offsets::default()).expect("set");
        assert!((0..60).contains(&(ask() - before)));
        drop(input);
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
}
