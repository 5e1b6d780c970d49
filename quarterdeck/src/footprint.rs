//! Keeps a role's memory as small as what it holds: many small objects, from many threads, and of the program what is in
//! use.
//!
//! That huge pages are off passes to children; an agent turns them on again for the runtime that it starts.

use std::time::Duration;

/// Arenas of the C library's allocator, which RocksDB uses. The default, eight a core, keeps freed memory in each.
const ARENAS_MAX: nix::libc::c_int = 2;
/// From this size on each allocation, such as a block of RocksDB's tables in memory, is a mapping of its own and goes back
/// when it is freed. The library would raise the limit with the first large one it frees, and keep all that is below.
const MAPPED_FROM_BYTES: nix::libc::c_int = 256 << 10;

/// Turns off huge pages, which make a small heap resident in steps of two megabytes, and spare arenas. To be called
/// before the threads start; what fails only costs memory.
pub fn keep_small() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt changes numbers of the allocator; no other thread runs yet.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS_MAX);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
    }
}

/// When pages of the program are given back, after the start: once it serves, and once the loops have settled.
const GIVEN_BACK_AT: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];

/// Starting takes far more of the program than running. Its pages are copies of a file, so they are dropped and come
/// back from the page cache where they are touched again. A thread does it and ends.
pub fn give_back_after_start() {
    let work = || {
        let mut passed = Duration::ZERO;
        for at in GIVEN_BACK_AT {
            std::thread::sleep(at.saturating_sub(passed));
            passed = at;
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
            clean_program_pages(&smaps).into_iter().for_each(|(start, len)| give_back(start, len));
        }
    };
    if let Err(error) = std::thread::Builder::new().name("footprint".to_owned()).spawn(work) {
        tracing::debug!(%error, "pages of the program stay resident");
    }
}

fn give_back(start: usize, len: usize) {
    // SAFETY: the range is a read-only mapping of a file without a changed page in it, so that what is dropped is read
    // again, the same, from the file; mappings of the program and its libraries are never taken away.
    let result = unsafe { nix::libc::madvise(start as *mut _, len, nix::libc::MADV_DONTNEED) };
    if result != 0 {
        tracing::debug!(start, len, "pages of the program stay resident");
    }
}

/// Start and length of the read-only mappings of files that nobody has changed in memory: relocated tables are changed,
/// and must stay.
fn clean_program_pages(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16).ok();
            let reads_only = rest.starts_with("r-xp ") || rest.starts_with("r--p ");
            let is_file = rest.contains(" /") && !rest.ends_with("(deleted)");
            let range =
                number(start).zip(number(end)).filter(|(start, end)| reads_only && is_file && start < end);
            candidate = range.map(|(start, end)| (start, end - start));
            continue;
        }
        let is_zero = rest.trim() == "0 kB";
        match first {
            // Pages that wait to be written to the file's own disk are dirty too, and not changed here.
            "Anonymous:" | "Swap:" if !is_zero => candidate = None,
            // The last line of a mapping.
            "VmFlags:" => found.extend(candidate.take()),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unchanged_parts_of_files_are_given_back() {
        let mapping = |head: &str, changed: &str| {
            format!(
                "{head}\nSize: 8 kB\nPrivate_Dirty: 4 kB\nAnonymous: {changed} kB\nSwap: 0 kB\nVmFlags: rd mr\n"
            )
        };
        let smaps = [
            mapping("1000-3000 r-xp 00000000 08:01 5    /usr/bin/quarterdeck", "0"),
            mapping("3000-4000 r--p 00002000 08:01 5    /usr/bin/quarterdeck", "4"),
            mapping("4000-5000 rw-p 00003000 08:01 5    /usr/bin/quarterdeck", "0"),
            mapping("5000-6000 r--p 00000000 00:00 0 ", "0"),
            mapping("6000-7000 r-xp 00000000 08:01 6    /tmp/old (deleted)", "0"),
            mapping("7000-8000 r--p 00000000 08:01 7    /usr/lib/libc.so.6", "0"),
        ];
        assert_eq!(clean_program_pages(&smaps.concat()), [(0x1000, 0x2000), (0x7000, 0x1000)]);
    }

    #[test]
    fn this_program_runs_on_without_its_pages() {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let pages = clean_program_pages(&smaps);
        assert!(!pages.is_empty());
        pages.into_iter().for_each(|(start, len)| give_back(start, len));
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }
}
