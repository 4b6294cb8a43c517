//! `berth image`: bring images, list them, remove them.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{runtime, start_log};
use crate::config::Config;
use crate::engine::layer_user;
use crate::image::{Images, Puller, Reference};

/// The verbs of `berth image`.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// Bring an image from a registry: berth image pull registry.example.com/team/app:v1
    Pull {
        /// The image's name
        name: String,
    },
    /// Bring the images of a docker-archive or an OCI layout, as a file or as a folder
    Load {
        /// What `docker save` or `skopeo copy` wrote
        file: PathBuf,
        /// The name of an image that carries none
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an image of a root filesystem's tar archive
    Import {
        /// The archive; gzip and zstd are fine
        file: PathBuf,
        /// The image's name
        #[arg(long)]
        name: String,
    },
    /// List the images
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove an image, and the layers that no other needs
    Rm {
        /// The image's name
        name: String,
    },
}

pub fn image(config: &Config, verb: Verb) -> anyhow::Result<()> {
    start_log(config.log_format, "warn");
    crate::engine::make_folder(&config.root)?;
    let images = Images::open(&config.root)?;
    let user_of = |layer: &Path| layer_user(config, layer);
    let brought = match verb {
        Verb::Pull { name } => pull(&images, &name).map(|image| vec![image]),
        Verb::Load { file, name } => images.load(&file, name.as_deref()).map_err(Into::into),
        Verb::Import { file, name } => images
            .import(&file, &name)
            .map(|image| vec![image])
            .map_err(Into::into),
        Verb::Ls { json } => return list(&images, json),
        Verb::Rm { name } => {
            print(&images.remove(&name, user_of)?);
            return Ok(());
        }
    };
    if brought.is_err() {
        // The good layers of an image that was refused are nobody's.
        images.sweep(user_of)?;
    }
    brought?.iter().for_each(print);
    Ok(())
}

fn print(image: &Reference) {
    println!("{} {}", image.name, image.manifest);
}

fn pull(images: &Images, name: &str) -> anyhow::Result<Reference> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} layers") {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let pulled = runtime()?.block_on(Puller::new(images.clone()).pull(name, progress));
    bar.finish_and_clear();
    Ok(pulled?)
}

fn list(images: &Images, as_json: bool) -> anyhow::Result<()> {
    let all = images.list()?;
    if as_json {
        println!("{}", json!({ "images": all }));
        return Ok(());
    }
    println!("{:<56} {:<20} {:>9}  ADDED", "NAME", "MANIFEST", "SIZE");
    for image in all {
        let digest: String = image.manifest.to_string().chars().take(19).collect();
        let size = format!("{:.1} MB", image.size as f64 / 1e6);
        println!("{:<56} {digest:<20} {size:>9}  {}", image.name, image.added);
    }
    Ok(())
}
