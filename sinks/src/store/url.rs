//! URLs of stores: a local folder, written as a path or as `file://`, or a remote store.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The URL of a store: a local folder, or a store behind a network or in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A local folder.
    Folder(PathBuf),
    /// A store behind a network, or in memory.
    Remote {
        /// The kind of store, such as `s3`.
        scheme: String,
        /// The whole URL, without a slash at its end.
        url: String,
    },
}

impl StoreUrl {
    /// Reads the URL of a store. A text without `://` is the path of a folder.
    pub fn parse(text: &str) -> StoreUrl {
        match text.split_once("://") {
            None => StoreUrl::Folder(PathBuf::from(text)),
            Some(("file", path)) => StoreUrl::Folder(PathBuf::from(path)),
            Some((scheme, _)) => {
                StoreUrl::Remote { scheme: scheme.to_owned(), url: text.trim_end_matches('/').to_owned() }
            }
        }
    }

    /// The location of the object `name` in this store, as messages show it.
    pub fn location(&self, name: &str) -> String {
        match self {
            StoreUrl::Folder(path) => path.join(name).display().to_string(),
            StoreUrl::Remote { url, .. } => format!("{url}/{name}"),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Folder(path) => write!(f, "{}", path.display()),
            StoreUrl::Remote { url, .. } => f.write_str(url),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<StoreUrl, Infallible> {
        Ok(StoreUrl::parse(text))
    }
}

impl From<&str> for StoreUrl {
    fn from(text: &str) -> StoreUrl {
        StoreUrl::parse(text)
    }
}

impl From<&Path> for StoreUrl {
    /// A path that reads as a URL is one, because command lines hand over both as paths.
    fn from(path: &Path) -> StoreUrl {
        path.to_str().map_or_else(|| StoreUrl::Folder(path.to_owned()), StoreUrl::parse)
    }
}

impl From<&PathBuf> for StoreUrl {
    fn from(path: &PathBuf) -> StoreUrl {
        StoreUrl::from(path.as_path())
    }
}

impl From<PathBuf> for StoreUrl {
    fn from(path: PathBuf) -> StoreUrl {
        StoreUrl::from(path.as_path())
    }
}

impl From<&StoreUrl> for StoreUrl {
    fn from(url: &StoreUrl) -> StoreUrl {
        url.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_a_file_url_name_a_folder_and_the_rest_is_remote() {
        let folder = |path: &str| StoreUrl::Folder(PathBuf::from(path));
        assert_eq!(StoreUrl::parse("data/store"), folder("data/store"));
        assert_eq!(StoreUrl::parse("file:///data/store"), folder("/data/store"));
        assert_eq!(StoreUrl::from(Path::new("/data/store")).location("a/b"), "/data/store/a/b");
        let remote = StoreUrl::from(Path::new("s3://bucket/run/"));
        assert_eq!(remote.location("commits/0"), "s3://bucket/run/commits/0");
        assert_eq!(remote.to_string(), "s3://bucket/run");
    }
}
