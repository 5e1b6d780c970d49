//! `/debug/pprof/`: what this process spends its time on, for `go tool pprof` and browsers. CPU profiles are taken by
//! sampling with a timer signal; one at a time. Memory is told in totals: the allocator keeps no call stacks.

mod encode;

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use machinery::status::StatusError;

use super::body::{self, Body};
use super::respond;
use crate::registry::options::Query;

/// Samples a second of CPU time; Go's number.
const FREQUENCY_HZ: i32 = 100;
/// As Go: without `seconds`.
const SECS_DEFAULT: i64 = 30;
/// A profile holds a task and a signal timer as long as it runs.
const SECS_MAX: i64 = 600;
/// Frames in these are unwound badly or not at all.
const PASSED_OVER: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Where all of this lives.
pub const PREFIX: &str = "/debug/pprof";

const INDEX: &str = "<html><head><title>/debug/pprof/</title></head><body>/debug/pprof/<br>\n<table>\n\
<tr><td><a href='cmdline'>cmdline</a></td><td>the command line of this process</td></tr>\n\
<tr><td><a href='heap?debug=1'>heap</a></td><td>memory of this process, in totals</td></tr>\n\
<tr><td><a href='profile?seconds=30'>profile</a></td><td>CPU profile for `go tool pprof`; ?debug=1 as text</td></tr>\n\
</table></body></html>\n";

/// Answers a path below [`PREFIX`].
///
/// # Errors
/// 404 for what Go has and this has not; 400 for bad parameters; 500 while another profile is being taken.
pub async fn answer(path: &str, query: &Query) -> Result<Response<Body>, StatusError> {
    match path.strip_prefix(PREFIX).unwrap_or_default() {
        "" | "/" => Ok(typed("text/html; charset=utf-8", INDEX)),
        "/cmdline" => {
            let bytes = std::fs::read("/proc/self/cmdline").unwrap_or_default();
            Ok(respond::text(StatusCode::OK, String::from_utf8_lossy(&bytes).trim_end_matches('\0')))
        }
        "/heap" => Ok(respond::text(StatusCode::OK, memory())),
        "/profile" => {
            let secs = query.number("seconds")?.unwrap_or(SECS_DEFAULT).clamp(1, SECS_MAX);
            let (span, as_text) =
                (Duration::from_secs(secs.unsigned_abs()), query.number("debug")? == Some(1));
            let taken = tokio::task::spawn_blocking(move || take(span, as_text)).await;
            taken.map_err(|e| StatusError::internal(e.to_string()))?.map_err(StatusError::internal)
        }
        _ => Err(StatusError::not_found_path()),
    }
}

fn typed(content_type: &'static str, content: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// What the kernel says of this process's memory.
fn memory() -> String {
    let mut text = String::new();
    for file in ["/proc/self/smaps_rollup", "/proc/self/status"] {
        let content = std::fs::read_to_string(file).unwrap_or_default();
        let wanted = |line: &&str| line.ends_with(" kB") || line.starts_with("Threads");
        content.lines().filter(wanted).for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text
}

/// Samples for as long as asked.
fn take(span: Duration, as_text: bool) -> Result<Response<Body>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("Could not enable CPU profiling: {e}");
    let builder = pprof::ProfilerGuardBuilder::default().frequency(FREQUENCY_HZ).blocklist(&PASSED_OVER);
    let guard = builder.build().map_err(|e| failed(&e))?;
    std::thread::sleep(span);
    let report = guard.report().build().map_err(|e| failed(&e))?;
    let mut samples: Vec<encode::Sample> =
        report.data.iter().map(|(frames, count)| sample(frames, *count)).collect();
    samples.sort_by_key(|s| std::cmp::Reverse(s.count));
    if as_text {
        return Ok(respond::text(StatusCode::OK, text(&samples)));
    }
    let profile = encode::profile(&samples, span, FREQUENCY_HZ);
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&profile).map_err(|e| failed(&e))?;
    let mut response = typed("application/octet-stream", packed.finish().map_err(|e| failed(&e))?);
    let name = HeaderValue::from_static("attachment; filename=\"profile\"");
    response.headers_mut().insert(CONTENT_DISPOSITION, name);
    Ok(response)
}

fn sample(frames: &pprof::Frames, count: isize) -> encode::Sample {
    let names = frames.frames.iter().flatten().map(|symbol| symbol.name());
    encode::Sample {
        stack: names.collect(),
        thread: frames.thread_name_or_id(),
        count: i64::try_from(count).unwrap_or(i64::MAX),
    }
}

/// Functions by the samples they were running in, and those they were on the stack of.
fn text(samples: &[encode::Sample]) -> String {
    let mut all: HashMap<&str, (i64, i64)> = HashMap::new();
    for sample in samples {
        if let Some(leaf) = sample.stack.first() {
            all.entry(leaf).or_default().0 += sample.count;
        }
        let mut seen: Vec<&str> = Vec::new();
        for name in &sample.stack {
            if !seen.contains(&name.as_str()) {
                seen.push(name);
                all.entry(name).or_default().1 += sample.count;
            }
        }
    }
    let total: i64 = samples.iter().map(|s| s.count).sum();
    let mut rows: Vec<(&str, (i64, i64))> = all.into_iter().collect();
    rows.sort_by_key(|(name, (own, below))| (std::cmp::Reverse((*own, *below)), *name));
    let mut text = format!("{total} samples at {FREQUENCY_HZ} Hz\n     own   total  function\n");
    for (name, (own, below)) in rows {
        text.push_str(&format!("{own:8}{below:8}  {name}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_by_samples() {
        let sample = |stack: &[&str], count| encode::Sample {
            stack: stack.iter().map(|s| (*s).to_owned()).collect(),
            thread: "t".into(),
            count,
        };
        let text = text(&[sample(&["b", "a", "a"], 2), sample(&["a"], 1)]);
        let rows: Vec<Vec<&str>> = text.lines().skip(2).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows, [["2", "2", "b"], ["1", "3", "a"]]);
    }

    #[tokio::test]
    async fn a_busy_process_has_samples() {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = stop.clone();
        let busy = std::thread::spawn(move || {
            let mut number = 1_u64;
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                number = std::hint::black_box(number.wrapping_mul(3));
            }
        });
        let answer =
            answer("/debug/pprof/profile", &Query::parse("seconds=1&debug=1")).await.expect("a profile");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        busy.join().expect("a thread");
        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
        let first = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
        assert!(!first.starts_with("0 "), "{first}");
    }
}
