//! Images from files: what `docker save`, `skopeo` and OCI tools write, and plain root
//! filesystems.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde_json::json;

use super::store::{DOCUMENT_LIMIT, check, diff_ids, parse_config};
use super::tree::{Tree, clean};
use super::{Digest, ImageError, Images, Reference, reader};

/// One image in the `manifest.json` of a docker-archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: PathBuf,
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

impl Images {
    /// Brings in the images of a docker-archive or an OCI layout, as a file (compressed or not)
    /// or as a folder. `name` is for an image that carries none.
    pub fn load(&self, path: &Path, name: Option<&str>) -> Result<Vec<Reference>, ImageError> {
        let _lock = self.share()?;
        let source = Source::open(path)?;
        if let Some(manifest) = source.document(Path::new("manifest.json"))? {
            return self.load_docker(&source, &manifest, name);
        }
        match source.document(Path::new("index.json"))? {
            Some(index) => self.load_layout(&source, &index, name),
            None => Err(ImageError::Malformed(format!(
                "{}: neither manifest.json nor index.json is in it, so that it is no docker-archive and no OCI \
                 layout; for a plain root filesystem use `berth image import`",
                path.display()
            ))),
        }
    }

    /// Makes an image of one layer out of a root filesystem's tar archive.
    pub fn import(&self, path: &Path, name: &str) -> Result<Reference, ImageError> {
        super::full_name(name)?;
        let _lock = self.share()?;
        let file =
            File::open(path).map_err(ImageError::io(format!("opening {}", path.display())))?;
        let layer = self.add_layer(file, None, None)?;
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created_by": "berth image import"}],
        });
        let config = config.to_string().into_bytes();
        self.name(name, &own_manifest(self, &config)?, &config)
    }

    fn load_docker(
        &self,
        source: &Source,
        manifest: &[u8],
        name: Option<&str>,
    ) -> Result<Vec<Reference>, ImageError> {
        let images: Vec<DockerImage> = parse("manifest.json", manifest)?;
        let mut loaded = Vec::new();
        for image in images {
            let config = source.required_document(&image.config)?;
            check_name(&image.config, &config)?;
            let wanted = diff_ids(&parse_config(&config)?)?;
            if wanted.len() != image.layers.len() {
                return Err(ImageError::Malformed(format!(
                    "manifest.json lists {} layers, the configuration {}",
                    image.layers.len(),
                    wanted.len()
                )));
            }
            for (path, diff_id) in image.layers.iter().zip(&wanted) {
                if self.layer(diff_id)?.is_none() {
                    self.add_layer(source.required(path)?, None, Some(diff_id))?;
                }
            }
            let manifest = own_manifest(self, &config)?;
            let tags = image.repo_tags.unwrap_or_default();
            let names = tags
                .iter()
                .map(String::as_str)
                .chain(name)
                .collect::<Vec<_>>();
            if names.is_empty() {
                return Err(unnamed());
            }
            for name in names {
                loaded.push(self.name(name, &manifest, &config)?);
            }
        }
        Ok(loaded)
    }

    fn load_layout(
        &self,
        source: &Source,
        index: &[u8],
        name: Option<&str>,
    ) -> Result<Vec<Reference>, ImageError> {
        let index: ImageIndex = parse("index.json", index)?;
        let mut loaded = Vec::new();
        for descriptor in index.manifests() {
            let annotation = |key: &str| descriptor.annotations().as_ref()?.get(key).cloned();
            let own = annotation("io.containerd.image.name")
                .or_else(|| annotation("org.opencontainers.image.ref.name"));
            let name = name.map(str::to_owned).or(own).ok_or_else(unnamed)?;
            loaded.push(self.load_manifest(source, descriptor, &name)?);
        }
        if loaded.is_empty() {
            return Err(ImageError::Malformed("index.json lists no image".into()));
        }
        Ok(loaded)
    }

    fn load_manifest(
        &self,
        source: &Source,
        descriptor: &Descriptor,
        name: &str,
    ) -> Result<Reference, ImageError> {
        let mut bytes = source.blob(descriptor)?;
        // A list of platforms stands between the index and the manifest.
        if let Ok(index) = serde_json::from_slice::<ImageIndex>(&bytes) {
            bytes = source.blob(our_platform(&index)?)?;
        }
        let manifest: ImageManifest = parse("the manifest", &bytes)?;
        let config = source.blob(manifest.config())?;
        let wanted = diff_ids(&parse_config(&config)?)?;
        check_layer_count(&manifest, &wanted)?;
        for (layer, diff_id) in manifest.layers().iter().zip(&wanted) {
            if self.layer(diff_id)?.is_none() {
                let digest = digest_of(layer)?;
                self.add_layer(
                    source.required(&blob_path(&digest))?,
                    Some(&digest),
                    Some(diff_id),
                )?;
            }
        }
        self.name(name, &bytes, &config)
    }
}

/// Each layer of the manifest goes with one diff id of the configuration.
pub(super) fn check_layer_count(
    manifest: &ImageManifest,
    wanted: &[Digest],
) -> Result<(), ImageError> {
    if manifest.layers().len() == wanted.len() {
        return Ok(());
    }
    Err(ImageError::Malformed(format!(
        "the manifest lists {} layers, the configuration {}",
        manifest.layers().len(),
        wanted.len()
    )))
}

/// The entry of an index for Linux on this machine's architecture.
pub(super) fn our_platform(index: &ImageIndex) -> Result<&Descriptor, ImageError> {
    let ours = |descriptor: &&Descriptor| match descriptor.platform() {
        Some(platform) => {
            platform.os().to_string() == "linux" && platform.architecture().to_string() == "amd64"
        }
        None => index.manifests().len() == 1,
    };
    let found = index.manifests().iter().find(ours);
    found.ok_or_else(|| {
        ImageError::Malformed("the image is not made for linux/amd64, which this host is".into())
    })
}

pub(super) fn digest_of(descriptor: &Descriptor) -> Result<Digest, ImageError> {
    descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(ImageError::Malformed)
}

pub(super) fn parse<'a, T: Deserialize<'a>>(what: &str, text: &'a [u8]) -> Result<T, ImageError> {
    serde_json::from_slice(text).map_err(|error| ImageError::Malformed(format!("{what}: {error}")))
}

fn unnamed() -> ImageError {
    ImageError::Malformed("the image carries no name; give it one with --name".into())
}

fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

/// The configuration of a docker-archive is named by its digest.
fn check_name(path: &Path, content: &[u8]) -> Result<(), ImageError> {
    let name = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    match format!("sha256:{name}").parse::<Digest>() {
        Ok(expected) => check(&path.display().to_string(), &expected, Digest::of(content)),
        Err(_) => Ok(()),
    }
}

/// A manifest for an image that came without one: its layers are stored, uncompressed as it were.
fn own_manifest(images: &Images, config: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut layers = Vec::new();
    for diff_id in diff_ids(&parse_config(config)?)? {
        let size = images.layer(&diff_id)?.map_or(0, |layer| layer.size);
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        layers.push(json!({"mediaType": media_type, "digest": diff_id, "size": size}));
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(config),
            "size": config.len(),
        },
        "layers": layers,
    });
    Ok(manifest.to_string().into_bytes())
}

/// Where an archive's parts come from.
enum Source {
    Folder(Tree),
    Tar {
        file: File,
        entries: HashMap<PathBuf, Place>,
    },
}

/// Where a part stands in a tar archive, or what it is another name of.
enum Place {
    At { offset: u64, size: u64 },
    Link(PathBuf),
}

impl Source {
    fn open(path: &Path) -> Result<Self, ImageError> {
        let what = format!("opening {}", path.display());
        if path.is_dir() {
            return Ok(Self::Folder(
                Tree::open(path).map_err(ImageError::io(what))?,
            ));
        }
        let file = File::open(path).map_err(ImageError::io(what))?;
        let damaged = |e| {
            ImageError::Malformed(format!(
                "{}: truncated, or no tar archive: {e}",
                path.display()
            ))
        };
        let file = plain(file).map_err(damaged)?;
        let entries = index(&file).map_err(damaged)?;
        Ok(Self::Tar { file, entries })
    }

    /// A part of the archive, or nothing.
    fn part(&self, name: &Path) -> Result<Option<Box<dyn Read + '_>>, ImageError> {
        let name =
            clean(name).map_err(|p| ImageError::Malformed(format!("{}: {p}", name.display())))?;
        let reading = || format!("reading {} of the archive", name.display());
        match self {
            Self::Folder(tree) => match tree.read(&name) {
                Ok(file) => Ok(Some(Box::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(ImageError::io(reading())(error)),
            },
            Self::Tar { file, entries } => {
                let mut place = entries.get(&name);
                if let Some(Place::Link(target)) = place {
                    place = entries.get(target);
                }
                let Some(Place::At { offset, size }) = place else {
                    return Ok(None);
                };
                Ok(Some(Box::new(Part {
                    file,
                    offset: *offset,
                    left: *size,
                })))
            }
        }
    }

    fn required(&self, name: &Path) -> Result<Box<dyn Read + '_>, ImageError> {
        let missing =
            || ImageError::Malformed(format!("{} is missing in the archive", name.display()));
        self.part(name)?.ok_or_else(missing)
    }

    fn document(&self, name: &Path) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(part) = self.part(name)? else {
            return Ok(None);
        };
        let what = name.display().to_string();
        reader::read_document(part, &what, DOCUMENT_LIMIT)
            .map(Some)
            .map_err(ImageError::io(format!("reading {what}")))
    }

    fn required_document(&self, name: &Path) -> Result<Vec<u8>, ImageError> {
        let missing =
            || ImageError::Malformed(format!("{} is missing in the archive", name.display()));
        self.document(name)?.ok_or_else(missing)
    }

    /// A document of an OCI layout, checked against its digest.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let digest = digest_of(descriptor)?;
        let content = self.required_document(&blob_path(&digest))?;
        check("a document of the layout", &digest, Digest::of(&content))?;
        Ok(content)
    }
}

/// The file itself where it isn't compressed, else a nameless file with what it unpacks to.
fn plain(mut file: File) -> io::Result<File> {
    let mut magic = [0u8; 4];
    let read = file.read(&mut magic)?;
    file.rewind()?;
    if !matches!(
        magic.get(..read),
        Some([0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd])
    ) {
        return Ok(file);
    }
    let mut plain = rustix::fs::openat(
        rustix::fs::CWD,
        std::env::temp_dir(),
        rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::from_bits_truncate(0o600),
    )
    .map(File::from)?;
    io::copy(&mut reader::decompressed(file)?, &mut plain)?;
    plain.rewind()?;
    Ok(plain)
}

fn index(file: &File) -> io::Result<HashMap<PathBuf, Place>> {
    let mut entries = HashMap::new();
    let length = file.metadata()?.len();
    for entry in tar::Archive::new(file).entries_with_seek()? {
        let entry = entry?;
        let Ok(path) = clean(&entry.path()?) else {
            continue;
        };
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > length) {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            entries.insert(path, Place::At { offset, size });
        } else if let Some(link) = entry.link_name()? {
            // Older Docker names a layer that two images share by `../<id>/layer.tar`.
            let base = if kind.is_symlink() {
                path.parent().unwrap_or(Path::new(""))
            } else {
                Path::new("")
            };
            entries.insert(path.clone(), Place::Link(normal(&base.join(link))));
        }
    }
    Ok(entries)
}

/// Takes `..` out of a name within the archive, where it is only a key.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::Normal(part) => out.push(part),
            _ => {}
        }
    }
    out
}

/// A range of a file, read by position so that several can be read side by side.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..most) else {
            return Ok(0);
        };
        let n = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.offset)?;
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
