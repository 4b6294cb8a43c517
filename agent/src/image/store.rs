//! The store's files: putting layers and documents in, finding an image, taking it out.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use super::digest::Hashing;
use super::{Digest, ImageError, Reference, full_name, layer, reader};
use crate::id;
use crate::removal;
use crate::supervisor::protocol::write_durable;

/// Manifests and configurations are kept in memory; a larger one is an attack.
pub(super) const DOCUMENT_LIMIT: u64 = 8 << 20;

/// An image, ready to be stacked.
#[derive(Debug)]
pub struct Image {
    /// What the store knows of it.
    pub reference: Reference,
    /// What its author says of how to run it.
    pub config: ImageConfiguration,
    /// The layers' folders, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// Keeps images from being removed (or, exclusive, from being used) while it is held.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// What is known of an unpacked layer: `layers/<hex>/layer.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Layer {
    pub diff_id: Digest,
    pub size: u64,
}

/// The image store of one state folder.
#[derive(Clone, Debug)]
pub struct Images {
    folder: PathBuf,
}

impl Images {
    /// Opens the store below the state folder, or makes it, and removes what an earlier process
    /// left half-done.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let images = Self {
            folder: root.join("images"),
        };
        for name in ["refs", "blobs/sha256", "layers"] {
            let path = images.folder.join(name);
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path);
            made.map_err(ImageError::io(format!("making {}", path.display())))?;
        }
        if let Some(_lock) = images.try_lock()? {
            images.remove_leftovers()?;
        }
        Ok(images)
    }

    fn lock_file(&self) -> Result<File, ImageError> {
        let path = self.folder.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        file.map_err(ImageError::io(format!("opening {}", path.display())))
    }

    fn lock(&self, how: FlockArg) -> Result<Lock, ImageError> {
        match Flock::lock(self.lock_file()?, how) {
            Ok(file) => Ok(Lock { _file: file }),
            Err((_, errno)) => Err(ImageError::io("locking the image store")(errno.into())),
        }
    }

    fn try_lock(&self) -> Result<Option<Lock>, ImageError> {
        Ok(
            Flock::lock(self.lock_file()?, FlockArg::LockExclusiveNonblock)
                .ok()
                .map(|file| Lock { _file: file }),
        )
    }

    /// Held while something is put in, or from finding an image until its use is on record.
    pub fn share(&self) -> Result<Lock, ImageError> {
        self.lock(FlockArg::LockShared)
    }

    fn remove_leftovers(&self) -> Result<(), ImageError> {
        for entry in read_folder(&self.folder.join("layers"))? {
            if entry.file_name().to_string_lossy().starts_with("new-") {
                removal::remove(&entry.path())
                    .map_err(ImageError::io("removing a half-unpacked layer"))?;
            }
        }
        Ok(())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// Layers have short names: overlayfs takes all of an image's in one page of options. Eighty
    /// bits can't be made to match another layer's, and the full digest is compared.
    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.folder
            .join("layers")
            .join(diff_id.hex().get(..20).unwrap_or_default())
    }

    fn reference_path(&self, name: &str) -> PathBuf {
        self.folder.join("refs").join(format!(
            "{}.json",
            name.replace('%', "%25").replace('/', "%2F")
        ))
    }

    /// Stores a document under its digest.
    pub(super) fn put_document(&self, content: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(content);
        let path = self.blob_path(&digest);
        write_durable(&path, content)
            .map_err(ImageError::io(format!("writing {}", path.display())))?;
        Ok(digest)
    }

    fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(digest);
        let content =
            fs::read(&path).map_err(ImageError::io(format!("reading {}", path.display())))?;
        check(&path.display().to_string(), digest, Digest::of(&content))?;
        Ok(content)
    }

    /// The layer, if it is in the store.
    pub(super) fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>, ImageError> {
        let path = self.layer_path(diff_id).join("layer.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::io(format!("reading {}", path.display()))(error)),
        };
        let layer: Layer = serde_json::from_slice(&text)
            .map_err(|error| ImageError::Malformed(format!("{}: {error}", path.display())))?;
        check("a layer in the store", diff_id, layer.diff_id.clone())?;
        Ok(Some(layer))
    }

    /// Unpacks a layer, compressed or not. `blob` is the digest of the bytes as they come,
    /// `diff_id` that of the archive; where one is given it must match.
    pub(super) fn add_layer(
        &self,
        bytes: impl Read,
        blob: Option<&Digest>,
        diff_id: Option<&Digest>,
    ) -> Result<Layer, ImageError> {
        let named = || {
            blob.or(diff_id)
                .map_or_else(|| "of the archive".to_owned(), Digest::to_string)
        };
        let new = NewFolder::make(
            self.folder
                .join("layers")
                .join(format!("new-{}", id::random_128())),
        )?;
        let tree = new.0.join("fs");
        fs::create_dir(&tree).map_err(ImageError::io("making a layer's folder"))?;
        let failed = |source| ImageError::Layer {
            digest: named(),
            source,
        };
        let mut hashing = Hashing::new(bytes);
        let archive = reader::decompressed(&mut hashing)
            .map_err(|e| failed(layer::LayerError::Archive(e)))?;
        let unpacked = layer::unpack(archive, &tree).map_err(failed)?;
        let (found, ..) = hashing
            .finish()
            .map_err(|e| failed(layer::LayerError::Archive(e)))?;
        if let Some(expected) = blob {
            check("a layer as it came", expected, found)?;
        }
        if let Some(expected) = diff_id {
            check("a layer's archive", expected, unpacked.diff_id.clone())?;
        }
        for path in &unpacked.left_out {
            tracing::warn!(layer = %unpacked.diff_id, path = %path.display(), "a device node of the image is left out");
        }
        let layer = Layer {
            diff_id: unpacked.diff_id,
            size: unpacked.size,
        };
        let text = serde_json::to_vec(&layer).map_err(|e| ImageError::Malformed(e.to_string()))?;
        write_durable(&new.0.join("layer.json"), &text)
            .map_err(ImageError::io("writing a layer's record"))?;
        new.settle(&self.layer_path(&layer.diff_id))?;
        Ok(layer)
    }

    /// Gives an image its name, as the last step of bringing it in. All layers must be there.
    pub(super) fn name(
        &self,
        name: &str,
        manifest: &[u8],
        config: &[u8],
    ) -> Result<Reference, ImageError> {
        let parsed = parse_config(config)?;
        let layers = diff_ids(&parsed)?;
        let mut size = 0;
        for diff_id in &layers {
            let layer = self.layer(diff_id)?;
            size += layer
                .ok_or_else(|| ImageError::Malformed(format!("layer {diff_id} is missing")))?
                .size;
        }
        let reference = Reference {
            name: full_name(name)?.to_string(),
            manifest: self.put_document(manifest)?,
            config: self.put_document(config)?,
            layers,
            size,
            added: id::Timestamp::now(),
        };
        let text =
            serde_json::to_vec(&reference).map_err(|e| ImageError::Malformed(e.to_string()))?;
        let path = self.reference_path(&reference.name);
        write_durable(&path, &text)
            .map_err(ImageError::io(format!("writing {}", path.display())))?;
        Ok(reference)
    }

    /// The image of that name, however the name is written.
    pub fn find(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let path = self.reference_path(&full_name(name)?.to_string());
        if !path.exists() {
            return Ok(None);
        }
        let reference = read_reference(&path)?;
        let config = parse_config(&self.read_document(&reference.config)?)?;
        let layers = reference
            .layers
            .iter()
            .map(|diff_id| self.layer_path(diff_id).join("fs"))
            .collect();
        Ok(Some(Image {
            reference,
            config,
            layers,
        }))
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Reference>, ImageError> {
        let mut all = Vec::new();
        for entry in read_folder(&self.folder.join("refs"))? {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                all.push(read_reference(&entry.path())?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a name, and whatever only it needed. `user_of` tells which task uses a layer.
    pub fn remove(
        &self,
        name: &str,
        user_of: impl Fn(&Path) -> Option<String>,
    ) -> Result<Reference, ImageError> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let image = self
            .find(name)?
            .ok_or_else(|| ImageError::NotFound(name.to_owned()))?;
        let others: Vec<Reference> = self
            .list()?
            .into_iter()
            .filter(|other| other.name != image.reference.name)
            .collect();
        let unshared = |digest: &&Digest| !others.iter().any(|other| other.layers.contains(digest));
        for layer in image.reference.layers.iter().filter(unshared) {
            if let Some(task) = user_of(&self.layer_path(layer).join("fs")) {
                return Err(ImageError::InUse {
                    name: image.reference.name,
                    task,
                });
            }
        }
        fs::remove_file(self.reference_path(&image.reference.name))
            .map_err(ImageError::io("removing the name"))?;
        self.sweep_locked(user_of)?;
        Ok(image.reference)
    }

    /// Removes what no name needs and no task uses: what a refused image left, or a name that
    /// moved on. Leaves it to the next time while somebody else uses the store.
    pub fn sweep(&self, user_of: impl Fn(&Path) -> Option<String>) -> Result<(), ImageError> {
        match self.try_lock()? {
            Some(_lock) => self.sweep_locked(user_of),
            None => Ok(()),
        }
    }

    fn sweep_locked(&self, user_of: impl Fn(&Path) -> Option<String>) -> Result<(), ImageError> {
        let mut needed = HashSet::new();
        for reference in self.list()? {
            needed.extend(
                reference
                    .layers
                    .iter()
                    .map(|digest| self.layer_path(digest)),
            );
            needed.insert(self.blob_path(&reference.manifest));
            needed.insert(self.blob_path(&reference.config));
        }
        for entry in read_folder(&self.folder.join("layers"))? {
            let path = entry.path();
            if !needed.contains(&path) && user_of(&path.join("fs")).is_none() {
                removal::remove(&path)
                    .map_err(ImageError::io(format!("removing {}", path.display())))?;
            }
        }
        for entry in read_folder(&self.folder.join("blobs/sha256"))? {
            let path = entry.path();
            if !needed.contains(&path) {
                fs::remove_file(&path)
                    .map_err(ImageError::io(format!("removing {}", path.display())))?;
            }
        }
        Ok(())
    }
}

/// A folder that is removed again unless it is settled.
struct NewFolder(PathBuf);

impl NewFolder {
    fn make(path: PathBuf) -> Result<Self, ImageError> {
        fs::create_dir(&path).map_err(ImageError::io(format!("making {}", path.display())))?;
        Ok(Self(path))
    }

    /// Moves it to its place. Where the same layer has arrived meanwhile, that one stays.
    fn settle(self, place: &Path) -> Result<(), ImageError> {
        match fs::rename(&self.0, place) {
            Err(error) if place.exists() => {
                tracing::debug!(%error, "the layer was there already");
                Ok(())
            }
            result => result.map_err(ImageError::io(format!("making {}", place.display()))),
        }
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if let Err(error) = removal::remove(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a half-unpacked layer stays until the next start");
        }
    }
}

/// Says so where a digest isn't what it should be.
pub(super) fn check(what: &str, expected: &Digest, found: Digest) -> Result<(), ImageError> {
    if *expected == found {
        return Ok(());
    }
    Err(ImageError::WrongDigest {
        what: what.to_owned(),
        expected: expected.clone(),
        found,
    })
}

pub(super) fn parse_config(text: &[u8]) -> Result<ImageConfiguration, ImageError> {
    serde_json::from_slice(text)
        .map_err(|error| ImageError::Malformed(format!("the image's configuration: {error}")))
}

pub(super) fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>, ImageError> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|e| ImageError::Malformed(format!("rootfs.diff_ids: {e}")))
    };
    config.rootfs().diff_ids().iter().map(parse).collect()
}

fn read_folder(path: &Path) -> Result<Vec<fs::DirEntry>, ImageError> {
    let listing = fs::read_dir(path).and_then(Iterator::collect);
    listing.map_err(ImageError::io(format!("listing {}", path.display())))
}

fn read_reference(path: &Path) -> Result<Reference, ImageError> {
    let text = fs::read(path).map_err(ImageError::io(format!("reading {}", path.display())))?;
    serde_json::from_slice(&text)
        .map_err(|error| ImageError::Malformed(format!("{}: {error}", path.display())))
}
