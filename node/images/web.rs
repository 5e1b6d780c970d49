//! The example image: a web server that says who it is, and the few commands that trying out a cluster needs in
//! an image without a shell. Built statically, so that it runs in an empty image.
//!
//! `web` serves on `PORT` (8080): `/` answers the hostname and the file named by `MESSAGE_FILE`, `/env` the
//! environment, `/healthz` health, `/fail` makes it unhealthy. `web sleep [N]`, `exit N`, `cat FILE…`,
//! `echo TEXT…`, `env`, `write FILE TEXT`, `ls DIR`, `id`, `get URL`, `run CMD ; CMD …` do what they say; `ask URL` is
//! a patient `get`.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

static HEALTHY: AtomicBool = AtomicBool::new(true);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
    fn getuid() -> u32;
    fn getgid() -> u32;
}

extern "C" fn end(_: i32) {
    // SAFETY: `_exit` may be called from a signal handler.
    unsafe { _exit(0) }
}

fn main() {
    // As the first process of a container nothing else ends us on TERM.
    // SAFETY: the handler only calls `_exit`.
    unsafe {
        signal(15, end);
        signal(2, end);
    }
    let args: Vec<String> = env::args().skip(1).collect();
    if let Err(error) = command(&args) {
        eprintln!("{error}");
        exit(1);
    }
}

fn command(args: &[String]) -> io::Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["serve"] => serve(),
        ["sleep"] => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        ["sleep", secs] => {
            thread::sleep(Duration::from_secs_f64(number(secs)?));
            Ok(())
        }
        ["exit", code] => exit(number(code)? as i32),
        ["cat"] => io::copy(&mut io::stdin(), &mut io::stdout()).map(drop),
        ["cat", files @ ..] => files.iter().try_for_each(|f| io::stdout().write_all(&fs::read(f)?)),
        ["echo", text @ ..] => writeln!(io::stdout(), "{}", text.join(" ")),
        ["env"] => env::vars().try_for_each(|(k, v)| writeln!(io::stdout(), "{k}={v}")),
        ["write", file, text @ ..] => fs::write(file, text.join(" ")),
        ["ls", dir] => list(dir),
        ["id"] => {
            // SAFETY: these calls cannot fail and touch no memory.
            let (uid, gid) = unsafe { (getuid(), getgid()) };
            writeln!(io::stdout(), "uid={uid} gid={gid}")
        }
        ["get", url] => get(url),
        ["ask", url] => ask(url),
        ["udp", port] => udp(port),
        ["run", rest @ ..] => rest
            .split(|w| *w == ";")
            .try_for_each(|part| command(&part.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())),
        other => Err(io::Error::other(format!("no such command: {other:?}"))),
    }
}

fn number(text: &str) -> io::Result<f64> {
    text.parse().map_err(|_| io::Error::other(format!("{text} is no number")))
}

fn list(dir: &str) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(dir)?.flatten().map(|e| e.file_name()).collect();
    names.sort();
    names.iter().try_for_each(|n| writeln!(io::stdout(), "{}", n.to_string_lossy()))
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn serve() -> io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "8080".into());
    let listener = match TcpListener::bind(format!("[::]:{port}")) {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(format!("0.0.0.0:{port}"))?,
    };
    println!("serving on port {port}");
    for stream in listener.incoming() {
        thread::spawn(move || stream.and_then(answer));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut head = [0_u8; 8192];
    let mut used = 0;
    while used < head.len() && !head[..used].windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut head[used..])? {
            0 => break,
            count => used += count,
        }
    }
    let text = String::from_utf8_lossy(&head[..used]).into_owned();
    let path = text.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
    println!("GET {path}");
    let (status, body) = page(&path, &stream);
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn page(path: &str, stream: &TcpStream) -> (&'static str, String) {
    match path {
        "/" => {
            let message = env::var("MESSAGE_FILE").ok().and_then(|f| fs::read_to_string(f).ok());
            ("200 OK", format!("{}\n{}", hostname(), message.unwrap_or_default()))
        }
        "/hostname" => ("200 OK", hostname()),
        "/env" => ("200 OK", env::vars().map(|(k, v)| format!("{k}={v}\n")).collect()),
        "/clientip" => ("200 OK", stream.peer_addr().map(|a| a.to_string()).unwrap_or_default()),
        "/fail" => {
            HEALTHY.store(false, Ordering::Relaxed);
            ("200 OK", "now unhealthy\n".into())
        }
        "/healthz" if HEALTHY.load(Ordering::Relaxed) => ("200 OK", "ok\n".into()),
        "/healthz" => ("500 Internal Server Error", "unhealthy\n".into()),
        _ => ("404 Not Found", "not found\n".into()),
    }
}

fn udp(port: &str) -> io::Result<()> {
    let socket =
        UdpSocket::bind(format!("[::]:{port}")).or_else(|_| UdpSocket::bind(format!("0.0.0.0:{port}")))?;
    let mut buffer = [0; 1500];
    loop {
        let (_, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(hostname().as_bytes(), from)?;
    }
}

/// As `get`, but a server that is not there yet gets a minute to come.
fn ask(url: &str) -> io::Result<()> {
    for _ in 0..300 {
        if get(url).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    get(url)
}

fn get(url: &str) -> io::Result<()> {
    let rest = url.strip_prefix("http://").ok_or_else(|| io::Error::other("only http:// is known"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let bare = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if bare { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    io::stdout().write_all(body.as_bytes())?;
    let ok = head.split(' ').nth(1).is_some_and(|s| s.starts_with('2'));
    if ok { Ok(()) } else { Err(io::Error::other(head.lines().next().unwrap_or("no answer").to_owned())) }
}
