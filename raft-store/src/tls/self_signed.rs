//! The certificate a member makes for itself with `--auto-tls`: kept beside its data, made again when it has run out.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{TlsError, TlsFiles, file_error, read_certificates, read_key, setup};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// A key is nobody else's business.
const KEY_FILE_MODE: u32 = 0o600;

/// The certificate and key in the folder; made when there are none, or none that is still valid.
pub fn load_or_make(
    files: &TlsFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let dir = files.auto_tls_dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if !key.exists() || !is_valid(&cert) {
        make(files, &dir, &cert, &key)?;
    }
    Ok((read_certificates(&cert)?, read_key(&key)?))
}

fn is_valid(cert: &PathBuf) -> bool {
    let Ok(certificates) = read_certificates(cert) else { return false };
    let Some((_, parsed)) =
        certificates.first().and_then(|found| x509_parser::parse_x509_certificate(found).ok())
    else {
        return false;
    };
    parsed.validity().is_valid()
}

fn make(files: &TlsFiles, dir: &Path, cert: &Path, key: &Path) -> Result<(), TlsError> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    names.extend(
        files.auto_tls_hosts.iter().filter(|host| !names.contains(host)).cloned().collect::<Vec<_>>(),
    );
    let mut params = CertificateParams::new(names).map_err(setup)?;
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now;
    params.not_after = params.not_before + YEAR * files.auto_tls_years.max(1);
    let pair = KeyPair::generate().map_err(setup)?;
    let made = params.self_signed(&pair).map_err(setup)?;
    fs::create_dir_all(dir).map_err(|error| file_error(dir, error))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(KEY_FILE_MODE);
    let written = options.open(key).and_then(|mut file| file.write_all(pair.serialize_pem().as_bytes()));
    written.map_err(|error| file_error(key, error))?;
    fs::write(cert, made.pem()).map_err(|error| file_error(cert, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_made_is_kept_private_and_as_long_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            auto_tls: true,
            auto_tls_dir: Some(dir.path().join("made")),
            auto_tls_hosts: vec!["store.example".into(), "10.0.0.7".into()],
            auto_tls_years: 3,
            ..TlsFiles::default()
        };
        let (first, _) = load_or_make(&files).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&first[0]).unwrap();
        let days =
            (parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp()) / 86_400;
        assert_eq!(days, 3 * 365);
        let names = format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap().value.general_names);
        assert!(names.contains("store.example"), "{names}");
        let mode = fs::metadata(dir.path().join("made/key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, KEY_FILE_MODE);
        assert_eq!(load_or_make(&files).unwrap().0, first, "it is kept");
        fs::write(dir.path().join("made/cert.pem"), "damaged").unwrap();
        assert_ne!(load_or_make(&files).unwrap().0, first, "an unusable one is made anew");
    }
}
