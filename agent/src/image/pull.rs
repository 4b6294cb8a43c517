//! Bringing an image from a registry.

use std::io::{self, Seek, SeekFrom};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference as Name};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::archive::{check_layer_count, digest_of, our_platform, parse};
use super::store::{DOCUMENT_LIMIT, check, diff_ids, parse_config};
use super::{Digest, ImageError, Images, Reference, full_name};

const ACCEPTED: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// How many layers come at once.
const SIDE_BY_SIDE: usize = 3;

/// Why an image didn't come.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry, or the way there.
    #[error("pulling {name}: {source}")]
    Registry {
        /// The image.
        name: String,
        /// What the registry said.
        source: oci_client::errors::OciDistributionError,
    },
    /// What came isn't right, or couldn't be stored.
    #[error("pulling {name}: {source}")]
    Image {
        /// The image.
        name: String,
        /// What is wrong.
        source: ImageError,
    },
    /// Nobody says which registries to trust, and the client can't be made without.
    #[error(
        "pulling {name}: this host has no CA certificates to check a registry with; install them \
         (package ca-certificates)"
    )]
    NoCertificates {
        /// The image.
        name: String,
    },
    /// A part of the work was cut off.
    #[error("pulling {name}: the work was interrupted")]
    Interrupted {
        /// The image.
        name: String,
    },
}

/// Pulls images into a store.
#[derive(Clone)]
pub struct Puller {
    images: Images,
}

/// One pull under way.
struct Pull {
    images: Images,
    client: Client,
    name: Name,
}

impl Puller {
    /// Pulls into that store.
    pub fn new(images: Images) -> Self {
        // TLS without a provider panics. A second call finds the first one's and says so.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        Self { images }
    }

    /// Brings the image of that name. `progress` is told of each layer that has come, as
    /// (done, of all).
    pub async fn pull(
        &self,
        name: &str,
        progress: impl Fn(usize, usize),
    ) -> Result<Reference, PullError> {
        let images = self.images.clone();
        let pull = || async move {
            let name = full_name(name)?;
            let _lock = images.share()?;
            // The client's constructor panics without any, for plain HTTP as well.
            if rustls_native_certs::load_native_certs().certs.is_empty() {
                return Err(Failure::NoCertificates);
            }
            let client = Client::try_from(client_config(&name))?;
            Arc::new(Pull {
                images,
                client,
                name,
            })
            .run(progress)
            .await
        };
        pull().await.map_err(|error: Failure| match error {
            Failure::Registry(source) => PullError::Registry {
                name: name.to_owned(),
                source: *source,
            },
            Failure::Image(source) => PullError::Image {
                name: name.to_owned(),
                source,
            },
            Failure::NoCertificates => PullError::NoCertificates {
                name: name.to_owned(),
            },
            Failure::Interrupted => PullError::Interrupted {
                name: name.to_owned(),
            },
        })
    }
}

enum Failure {
    NoCertificates,
    Registry(Box<oci_client::errors::OciDistributionError>),
    Image(ImageError),
    Interrupted,
}

impl From<oci_client::errors::OciDistributionError> for Failure {
    fn from(error: oci_client::errors::OciDistributionError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

/// Plain HTTP goes to loopback only, as with Docker: nobody else can listen there.
fn client_config(name: &Name) -> ClientConfig {
    let registry = name.resolve_registry();
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let plain = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let protocol = if plain {
        ClientProtocol::HttpsExcept(vec![registry.to_owned()])
    } else {
        ClientProtocol::Https
    };
    ClientConfig {
        protocol,
        connect_timeout: Some(Duration::from_secs(15)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("berth/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    }
}

impl Pull {
    async fn run(self: Arc<Self>, progress: impl Fn(usize, usize)) -> Result<Reference, Failure> {
        let (bytes, manifest) = self.manifest().await?;
        let config = self.document(manifest.config()).await?;
        let wanted = diff_ids(&parse_config(&config)?)?;
        check_layer_count(&manifest, &wanted)?;
        let all = wanted.len();
        let mut left = manifest
            .layers()
            .iter()
            .cloned()
            .zip(wanted)
            .collect::<Vec<_>>();
        left.reverse();
        let mut under_way = tokio::task::JoinSet::new();
        let mut done = 0;
        loop {
            while under_way.len() < SIDE_BY_SIDE
                && let Some((descriptor, diff_id)) = left.pop()
            {
                under_way.spawn(Arc::clone(&self).layer(descriptor, diff_id));
            }
            match under_way.join_next().await {
                None => break,
                Some(Err(_)) => return Err(Failure::Interrupted),
                Some(Ok(result)) => result?,
            }
            done += 1;
            progress(done, all);
        }
        Ok(self.images.name(&self.name.to_string(), &bytes, &config)?)
    }

    /// The manifest for this host: past the list of platforms where there is one.
    async fn manifest(&self) -> Result<(Vec<u8>, ImageManifest), Failure> {
        let bytes = self.raw_manifest(&self.name).await?;
        let bytes = match serde_json::from_slice::<ImageIndex>(&bytes) {
            Ok(index) => {
                let digest = digest_of(our_platform(&index)?)?;
                self.raw_manifest(&self.name.clone_with_digest(digest.to_string()))
                    .await?
            }
            Err(_) => bytes,
        };
        let manifest = parse("the manifest", &bytes)?;
        Ok((bytes, manifest))
    }

    async fn raw_manifest(&self, name: &Name) -> Result<Vec<u8>, Failure> {
        let (bytes, _) = self
            .client
            .pull_manifest_raw(name, &RegistryAuth::Anonymous, &ACCEPTED)
            .await?;
        if let Some(digest) = name.digest() {
            let expected = digest.parse().map_err(ImageError::Malformed)?;
            check("the manifest", &expected, Digest::of(&bytes))?;
        }
        Ok(bytes.to_vec())
    }

    async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
        let digest = digest_of(descriptor)?;
        if descriptor.size() > DOCUMENT_LIMIT {
            let size = descriptor.size();
            return Err(ImageError::Malformed(format!(
                "the configuration has {size} bytes, too many"
            ))
            .into());
        }
        let mut content = Announced::new(Vec::new(), descriptor);
        self.client
            .pull_blob(&self.name, &wire(descriptor), &mut content)
            .await?;
        let content = content.inner;
        check("the configuration", &digest, Digest::of(&content))?;
        Ok(content)
    }

    /// Fetches a layer into a nameless file and unpacks it from there, unless it is there already.
    async fn layer(
        self: Arc<Self>,
        descriptor: Descriptor,
        diff_id: Digest,
    ) -> Result<(), Failure> {
        if self.images.layer(&diff_id)?.is_some() {
            return Ok(());
        }
        let digest = digest_of(&descriptor)?;
        let file = nameless_file().map_err(ImageError::io("making room for a layer"))?;
        let copy = file
            .try_clone()
            .map_err(ImageError::io("making room for a layer"))?;
        let mut out = Announced::new(tokio::fs::File::from_std(copy), &descriptor);
        self.client
            .pull_blob(&self.name, &wire(&descriptor), &mut out)
            .await?;
        out.flush()
            .await
            .map_err(ImageError::io("writing a layer"))?;
        let images = self.images.clone();
        let unpack = move || {
            let mut file = file;
            file.seek(SeekFrom::Start(0))
                .map_err(ImageError::io("reading a layer"))?;
            images
                .add_layer(file, Some(&digest), Some(&diff_id))
                .map(drop)
        };
        Ok(tokio::task::spawn_blocking(unpack)
            .await
            .map_err(|_| Failure::Interrupted)??)
    }
}

/// Takes as many bytes as a part of the image was announced to have, so that a registry can't
/// fill the memory or the disk with more.
struct Announced<W> {
    inner: W,
    left: u64,
}

impl<W> Announced<W> {
    fn new(inner: W, descriptor: &Descriptor) -> Self {
        let left = descriptor.size();
        Self { inner, left }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Announced<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.len() as u64 > this.left {
            let error = io::Error::other("the registry sends more than it announced");
            return Poll::Ready(Err(error));
        }
        let written = ready!(Pin::new(&mut this.inner).poll_write(context, bytes))?;
        this.left -= written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

fn wire(descriptor: &Descriptor) -> OciDescriptor {
    OciDescriptor {
        media_type: descriptor.media_type().to_string(),
        digest: descriptor.digest().to_string(),
        size: i64::try_from(descriptor.size()).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

fn nameless_file() -> std::io::Result<std::fs::File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(
        CWD,
        std::env::temp_dir(),
        flags,
        Mode::from_bits_truncate(0o600),
    )?
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_is_taken_than_was_announced() {
        let mut writer = Announced {
            inner: Vec::new(),
            left: 5,
        };
        writer.write_all(b"three").await.unwrap();
        assert!(writer.write_all(b"!").await.is_err());
        assert_eq!(writer.inner, b"three");
    }
}
