//! Image names, read by the distribution project's grammar (`reference/reference.go`).
//!
//! `oci_client` reads them too, with a regular expression that takes 55 ms of processor time to
//! compile: three times as long as all else that `berth run` does.

use oci_client::Reference;

use super::ImageError;

/// The full form of a name as people write it: `busybox` is `docker.io/library/busybox:latest`.
pub fn full_name(name: &str) -> Result<Reference, ImageError> {
    parse(name).ok_or_else(|| ImageError::Name(name.to_owned()))
}

fn parse(name: &str) -> Option<Reference> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest).filter(|digest| is_digest(digest))?),
        None => (name, ""),
    };
    // What follows the last colon is a port if a path follows it.
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag).filter(|tag| is_tag(tag))?),
        _ => (rest, ""),
    };
    let (registry, repository) = split_registry(path);
    let is_path = repository.split('/').all(is_component) && repository.len() <= 255;
    if !is_registry(&registry) || !is_path {
        return None;
    }
    let (tag, digest) = (tag.to_owned(), digest.to_owned());
    Some(match (tag.is_empty(), digest.is_empty()) {
        (true, true) => Reference::with_tag(registry, repository, "latest".into()),
        (false, true) => Reference::with_tag(registry, repository, tag),
        (true, false) => Reference::with_digest(registry, repository, digest),
        (false, false) => Reference::with_tag_and_digest(registry, repository, tag, digest),
    })
}

/// The first part is a registry if it looks like a host and not like a folder.
fn split_registry(path: &str) -> (String, String) {
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", path),
    };
    match registry {
        "docker.io" | "index.docker.io" if !repository.contains('/') => {
            ("docker.io".into(), format!("library/{repository}"))
        }
        "index.docker.io" => ("docker.io".into(), repository.into()),
        _ => (registry.into(), repository.into()),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = text.split(|c: char| u8::try_from(c).is_ok_and(is_word));
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.into_iter().all(|end| end.is_some_and(is_word))
        && separators
            .into_iter()
            .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let begins = text.bytes().next().is_some_and(is_word);
    begins && text.len() <= 128 && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(text: &str) -> bool {
    let length = |algorithm| match algorithm {
        "sha256" => Some(64),
        "sha384" => Some(96),
        "sha512" => Some(128),
        _ => None,
    };
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        length(algorithm) == Some(hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every name of up to three of these pieces is read as `oci_client` reads it.
    #[test]
    fn names_are_read_as_the_grammar_has_them() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = format!("@sha256:{hex}");
        let pieces = [
            "a",
            "9",
            "B",
            ".",
            "_",
            "-",
            "/",
            ":",
            "@",
            " ",
            "é",
            "a.b/",
            "a.b:50/",
            "localhost/",
            "docker.io/",
            "index.docker.io/",
            "library/",
            "a__b",
            "a--b",
            "a._b",
            "a___b",
            "-a.b/",
            "a..b/",
            "a.B-c/",
            ":v1.0-x_Y",
            ":-v",
            &digest,
            "@sha256:12",
            "@md5:00",
        ];
        let mut names = vec![String::new()];
        for piece in pieces {
            for second in pieces {
                for third in pieces {
                    names.push(format!("{piece}{second}{third}"));
                }
            }
        }
        names.push("a".repeat(247));
        names.push("a".repeat(248));
        names.push(format!("a:{}", "v".repeat(128)));
        names.push(format!("a:{}", "v".repeat(129)));
        for name in names {
            let expected = name.parse::<Reference>().ok();
            // It lets pass what no registry can be asked for: a folder with capitals, a host with
            // an underscore, a tag with letters outside ASCII.
            let expected = expected.filter(|reference| {
                let capitals = reference
                    .repository()
                    .bytes()
                    .any(|b| b.is_ascii_uppercase());
                !capitals && !reference.registry().contains('_') && name.is_ascii()
            });
            assert_eq!(parse(&name), expected, "{name}");
        }
    }
}
