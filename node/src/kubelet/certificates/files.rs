//! Certificates on disk, as upstream keeps them: `<name>-<time>.pem` holds chain and key, and
//! `<name>-current.pem` is a link to the newest.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Share of a certificate's life after which it is renewed, percent. Upstream draws between 70 and 90.
const RENEW_AT_PERCENT: i64 = 80;

/// When a certificate begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub from: Timestamp,
    /// To.
    pub to: Timestamp,
}

impl Validity {
    /// When it should be renewed.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.to.as_second() - self.from.as_second();
        Timestamp::from_second(self.from.as_second() + life * RENEW_AT_PERCENT / 100).unwrap_or(self.to)
    }
}

/// The link to the newest pair.
pub fn current(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}-current.pem"))
}

/// Writes a pair and makes it the current one, readable by its owner alone.
pub fn save(dir: &Path, name: &str, chain_pem: &str, key_pem: &str, now: Timestamp) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let file_name = format!("{name}-{}.pem", now.strftime("%Y-%m-%d-%H-%M-%S"));
    let path = dir.join(&file_name);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(chain_pem.trim_end().as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(key_pem.as_bytes())?;
    file.sync_all()?;
    let link = current(dir, name);
    let fresh = dir.join(format!("{name}-updated.pem"));
    let _ = fs::remove_file(&fresh);
    symlink(&file_name, &fresh)?;
    fs::rename(fresh, &link)?;
    Ok(link)
}

/// When the first certificate of a file begins and ends; `None` if there is no usable one. Signers date certificates
/// back, for clocks that are late; a life that short is counted from when the file was written.
pub fn validity(path: &Path) -> Option<Validity> {
    let certificate = CertificateDer::pem_file_iter(path).ok()?.next()?.ok()?;
    let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
    let from = Timestamp::from_second(parsed.validity().not_before.timestamp()).ok()?;
    let to = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
    let written = fs::metadata(path).and_then(|m| m.modified()).ok();
    let written = written.and_then(|at| Timestamp::try_from(at).ok()).filter(|at| *at < to);
    Some(Validity { from: written.map_or(from, |at| at.max(from)), to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_newest_pair_is_current_and_private() {
        let dir = tempfile::tempdir().expect("a folder");
        let pair = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).expect("signed");
        let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        let at = |s| Timestamp::from_second(s).expect("in range");
        save(dir.path(), "kubelet-client", "old", &key, at(0)).expect("saved");
        let link = save(dir.path(), "kubelet-client", &chain, &key, at(1)).expect("saved");
        let mode = fs::metadata(&link).expect("meta").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert!(validity(&link).is_some_and(|v| v.from < v.to));
        assert!(fs::read_to_string(link).expect("read").contains("PRIVATE KEY"));
    }

    #[test]
    fn renewal_comes_before_the_end() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        assert_eq!(Validity { from: at(0), to: at(1000) }.renew_at(), at(800));
    }
}
