//! Checking that a request was signed with our key: AWS Signature Version 4.
//!
//! Source: the IAM user guide, "AWS Signature Version 4 for API requests".

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::credentials::Credentials;
use crate::id::hex;

/// How far the request's clock may be off, in seconds: AWS's own five minutes.
const SKEW: i64 = 300;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What the header `Authorization` says.
struct Authorization<'a> {
    key: &'a str,
    /// `date/region/service/aws4_request`
    scope: &'a str,
    date: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let fields = header.strip_prefix(ALGORITHM)?;
        let field = |name: &str| {
            fields
                .split(',')
                .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let (key, scope) = field("Credential")?.split_once('/')?;
        let date = scope.split('/').next()?;
        let service_and_end = scope.split('/').skip(2).collect::<Vec<_>>();
        if service_and_end != ["ecs", "aws4_request"] {
            return None;
        }
        Some(Self {
            key,
            scope,
            date,
            signed_headers: field("SignedHeaders")?,
            signature: field("Signature")?,
        })
    }
}

/// Checks a `POST /`. The error says for people what is wrong, and nothing that helps to guess.
pub fn verify(
    headers: &HeaderMap,
    body: &[u8],
    credentials: &Credentials,
    now: i64,
) -> Result<(), &'static str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(authorization) = text("authorization") else {
        return Err(
            "the request carries no signature; `berth credentials` prints the environment for an AWS client",
        );
    };
    let authorization =
        Authorization::parse(authorization).ok_or("the header Authorization is malformed")?;
    let moment = text("x-amz-date").ok_or("the header X-Amz-Date is missing")?;
    let seconds = parse_moment(moment).ok_or("the header X-Amz-Date is malformed")?;
    if (now - seconds).abs() > SKEW || !moment.starts_with(authorization.date) {
        return Err("the request's time is too far from this host's; set the clock of the caller");
    }
    for needed in ["host", "x-amz-date", "x-amz-target"] {
        if !authorization
            .signed_headers
            .split(';')
            .any(|name| name == needed)
        {
            return Err("the signature leaves out host, x-amz-date or x-amz-target");
        }
    }
    let canonical =
        canonical_request(headers, &authorization, body).ok_or("a signed header is missing")?;
    let to_sign = format!(
        "{ALGORITHM}\n{moment}\n{}\n{}",
        authorization.scope,
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let signature = decode_hex(authorization.signature).ok_or("the signature is malformed")?;
    let mac = signing_mac(
        &credentials.secret_access_key,
        authorization.scope,
        to_sign.as_bytes(),
    );
    let known = authorization.key == credentials.access_key_id;
    // Compared in constant time, whether or not the key's name is right.
    match mac.verify_slice(&signature) {
        Ok(()) if known => Ok(()),
        _ => Err("The security token included in the request is invalid."),
    }
}

fn canonical_request(
    headers: &HeaderMap,
    authorization: &Authorization<'_>,
    body: &[u8],
) -> Option<String> {
    let mut request = String::from("POST\n/\n\n");
    for name in authorization.signed_headers.split(';') {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().ok())
            .collect::<Option<_>>()?;
        if values.is_empty() {
            return None;
        }
        let values: Vec<_> = values
            .iter()
            .map(|v| v.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        request.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    request.push_str(&format!(
        "\n{}\n{}",
        authorization.signed_headers,
        hex(&Sha256::digest(body))
    ));
    Some(request)
}

/// The MAC of the text under the key that is derived from the secret through the scope.
fn signing_mac(secret: &str, scope: &str, text: &[u8]) -> Hmac<Sha256> {
    let key = scope
        .split('/')
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| {
            mac(&key, part.as_bytes()).finalize().into_bytes().to_vec()
        });
    mac(&key, text)
}

fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    // HMAC takes a key of any length; a shorter error path would be unreachable.
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key)
        .unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(text);
    mac
}

/// Seconds since 1970 of `20260131T235959Z`.
fn parse_moment(text: &str) -> Option<i64> {
    let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(
        civil
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()?
            .timestamp()
            .as_second(),
    )
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signature of a request with these headers, made as a client makes it.
    fn signed(secret: &str, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "127.0.0.1:8088"),
            ("x-amz-date", "20260102T030405Z"),
            ("x-amz-target", "T.ListTasks"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let scope = "20260102/us-east-1/ecs/aws4_request";
        let names = "host;x-amz-date;x-amz-target";
        let start =
            format!("{ALGORITHM} Credential=KEY/{scope}, SignedHeaders={names}, Signature=");
        let unsigned = format!("{start}00");
        let canonical =
            canonical_request(&headers, &Authorization::parse(&unsigned).unwrap(), body).unwrap();
        let to_sign = format!(
            "{ALGORITHM}\n20260102T030405Z\n{scope}\n{}",
            hex(&Sha256::digest(canonical.as_bytes()))
        );
        let signature = hex(&signing_mac(secret, scope, to_sign.as_bytes())
            .finalize()
            .into_bytes());
        headers.insert(
            "authorization",
            format!("{start}{signature}").parse().unwrap(),
        );
        headers
    }

    const NOW: i64 = 1_767_323_045;

    fn key() -> Credentials {
        Credentials {
            access_key_id: "KEY".into(),
            secret_access_key: "secret".into(),
        }
    }

    #[test]
    fn the_signing_key_is_that_of_the_published_example() {
        // The IAM user guide's example of deriving a signing key.
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let key = "20120215/us-east-1/iam/aws4_request"
            .split('/')
            .fold(format!("AWS4{secret}").into_bytes(), |k, p| {
                mac(&k, p.as_bytes()).finalize().into_bytes().to_vec()
            });
        assert_eq!(
            hex(&key),
            "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"
        );
    }

    #[test]
    fn a_right_signature_passes_and_each_change_fails() {
        let headers = signed("secret", b"{}");
        assert_eq!(verify(&headers, b"{}", &key(), NOW), Ok(()));
        assert!(
            verify(&headers, b"{ }", &key(), NOW).is_err(),
            "another body"
        );
        assert!(
            verify(&signed("other", b"{}"), b"{}", &key(), NOW).is_err(),
            "another secret"
        );
        assert!(
            verify(&headers, b"{}", &key(), NOW + 301).is_err(),
            "an old request"
        );
        assert!(
            verify(&HeaderMap::new(), b"{}", &key(), NOW).is_err(),
            "no signature"
        );
        for name in ["host", "x-amz-target"] {
            let mut changed = headers.clone();
            changed.insert(name, "other".parse().unwrap());
            assert!(
                verify(&changed, b"{}", &key(), NOW).is_err(),
                "another {name}"
            );
        }
        let mut other_key = key();
        other_key.access_key_id = "KEY2".into();
        assert!(
            verify(&headers, b"{}", &other_key, NOW).is_err(),
            "another key id"
        );
    }

    #[test]
    fn malformed_headers_are_refused_without_a_panic() {
        for text in [
            "",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=a",
            "Bearer x",
            "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=, Signature=é",
        ] {
            let mut headers = signed("secret", b"");
            if let Ok(value) = axum::http::HeaderValue::from_bytes(text.as_bytes()) {
                headers.insert("authorization", value);
            }
            assert!(verify(&headers, b"", &key(), NOW).is_err(), "{text}");
        }
    }
}
