//! The API key of the embedded default: random, made once, kept in the data directory, readable by its owner alone.

use anyhow::{Context, Result, bail};
use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Random bytes in a key; 128 bits cannot be guessed.
const KEY_BYTES: usize = 16;

/// The key that an earlier run left in `data_dir`, or a new one. The flag says that it is new.
pub(crate) fn load_or_create(data_dir: &Path) -> Result<(String, bool)> {
    let path = data_dir.join("api-key");
    match File::open(&path) {
        Ok(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
            let key = text.trim();
            if key.is_empty() {
                bail!("{} is empty; delete it to get a new key, or set `http.api_key`", path.display());
            }
            Ok((key.to_owned(), false))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut random = [0; KEY_BYTES];
            getrandom::fill(&mut random).context("no random numbers from the system")?;
            let key = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(file, "{key}").with_context(|| format!("cannot write {}", path.display()))?;
            file.sync_all().with_context(|| format!("cannot write {}", path.display()))?;
            Ok((key, true))
        }
        Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::load_or_create;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_belongs_to_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (first, new) = load_or_create(directory.path()).unwrap();
        assert!(new && first.len() == 32);
        assert_eq!(load_or_create(directory.path()).unwrap(), (first, false));
        let mode = std::fs::metadata(directory.path().join("api-key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_empty_key_file_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("api-key"), "\n").unwrap();
        assert!(load_or_create(directory.path()).unwrap_err().to_string().contains("api-key"));
    }
}
