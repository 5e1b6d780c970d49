//! Image names: which registry they come from and their default tag.

/// The name with `:latest` where it has neither tag nor digest; `None` if it cannot be an image's name.
pub fn with_default_tag(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    let repository = name.split('@').next()?;
    let last = repository.rsplit('/').next()?;
    let path_is_lower =
        repository.rsplit_once(':').map_or(repository, |(r, t)| if t.contains('/') { repository } else { r });
    let path = path_is_lower.split_once('/').map_or(path_is_lower, |(first, rest)| {
        if first.contains(['.', ':']) || first == "localhost" { rest } else { path_is_lower }
    });
    let valid = !name.is_empty()
        && name.chars().all(allowed)
        && !path.is_empty()
        && !path.chars().any(|c| c.is_ascii_uppercase())
        && !last.is_empty()
        && !name.contains("//")
        && !last.starts_with([':', '.', '-']);
    if !valid {
        return None;
    }
    let tagged = last.contains(':') || name.contains('@');
    Some(if tagged { name.to_owned() } else { format!("{name}:latest") })
}

/// The registry's host (`docker.io` for short names) and the repository's path.
pub fn registry_and_path(name: &str) -> (String, String) {
    let repository = name.split('@').next().unwrap_or(name);
    let untagged = match repository.rsplit_once(':') {
        Some((r, tag)) if !tag.contains('/') => r,
        _ => repository,
    };
    match untagged.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (first.to_owned(), rest.to_owned())
        }
        Some(_) => ("docker.io".to_owned(), untagged.to_owned()),
        None => ("docker.io".to_owned(), format!("library/{untagged}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_registries() {
        let cases = [
            ("busybox", Some("busybox:latest"), "docker.io", "library/busybox"),
            ("a/b:1", Some("a/b:1"), "docker.io", "a/b"),
            ("reg.io:5000/x", Some("reg.io:5000/x:latest"), "reg.io:5000", "x"),
            ("localhost/x@sha256:ab", Some("localhost/x@sha256:ab"), "localhost", "x"),
            ("Upper", None, "docker.io", "library/Upper"),
            ("a b", None, "docker.io", "library/a b"),
        ];
        for (name, tagged, registry, path) in cases {
            assert_eq!(with_default_tag(name).as_deref(), tagged, "{name}");
            assert_eq!(registry_and_path(name), (registry.to_owned(), path.to_owned()), "{name}");
        }
        assert_eq!(with_default_tag(""), None);
    }
}
