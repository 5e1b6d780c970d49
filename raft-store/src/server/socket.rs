//! What a URL to listen at names: an address of the network, or a socket of the file system.
//!
//! `unix` and `unixs` URLs (the second with TLS) are read as etcd reads them: what follows the two slashes is the path,
//! relative unless there is a third. A socket that is there already is replaced, whoever made it; any other file is not.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// Quiet after which the system asks a client's machine whether it is there, and between questions, as in etcd: one that
/// lost its power before it said anything in HTTP/2 would hold its connection for ever.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection of either kind.
pub type Stream = Either<TcpStream, UnixStream>;

/// Whether a URL asks for TLS.
pub fn is_private(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("unixs://")
}

/// The socket of the file system that a URL names.
fn path(url: &str) -> Option<&Path> {
    let (scheme, path) = url.split_once("://")?;
    matches!(scheme, "unix" | "unixs").then_some(Path::new(path))
}

/// The address of a URL such as `http://127.0.0.1:2379`; names are looked up.
async fn address(url: &str) -> Result<SocketAddr, String> {
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let host = uri.host().ok_or("no host in it")?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().ok_or("no port in it")?;
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "no address has this name".into())
}

/// Something to listen at.
pub enum Socket {
    /// An address.
    Tcp(TcpListener),
    /// A path, whose file goes with the listener.
    Unix {
        /// What listens there.
        listener: UnixListener,
        /// The file.
        _file: SocketFile,
    },
}

impl Socket {
    /// Opens what a URL names; the error says why it cannot be.
    pub async fn open(url: &str) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let Some(path) = path(url) else {
            return TcpListener::bind(address(url).await?).await.map(Self::Tcp).map_err(text);
        };
        if path.as_os_str().is_empty() {
            return Err("no path in it".to_owned());
        }
        make_way(path).map_err(text)?;
        let listener = UnixListener::bind(path).map_err(text)?;
        Ok(Self::Unix { listener, _file: SocketFile::of(path).map_err(text)? })
    }

    /// The next connection, and the address it comes from, if it has one.
    pub async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                // Small answers must not wait for each other; a socket that refuses is served all the same.
                let _ = stream.set_nodelay(true);
                let keepalive =
                    socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
                let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                Ok((Either::Left(stream), Some(remote.ip())))
            }
            Self::Unix { listener, .. } => Ok((Either::Right(listener.accept().await?.0), None)),
        }
    }
}

/// Removes the socket that an earlier run has left.
fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(known) if known.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::other(format!("{} is there already, and is no socket", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file of a socket, which goes with it, unless another socket has taken its place.
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: id(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|now| now == self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_goes_with_its_listener_and_takes_no_other_files_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a.sock");
        let url = format!("unix://{}", at.display());
        let first = Socket::open(&url).await.unwrap();
        let second = Socket::open(&url).await.unwrap();
        drop(first);
        assert!(at.exists(), "it is the second's");
        drop(second);
        assert!(!at.exists());
        fs::write(&at, "data").unwrap();
        let refused = Socket::open(&url).await.err().unwrap();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(fs::read(&at).unwrap(), b"data");
        for (url, reason) in [("unix://", "no path in it"), ("http://127.0.0.1", "no port in it")] {
            assert_eq!(Socket::open(url).await.err().as_deref(), Some(reason), "{url}");
        }
    }

    #[test]
    fn paths_are_read_as_etcd_reads_them() {
        let cases = [
            ("unix:///run/a.sock", Some("/run/a.sock")),
            ("unixs://localhost:2379", Some("localhost:2379")),
            ("unix://here/a.sock", Some("here/a.sock")),
            ("http://localhost:2379", None),
        ];
        for (url, expected) in cases {
            assert_eq!(path(url), expected.map(Path::new), "{url}");
        }
    }
}
