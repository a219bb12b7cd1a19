//! A file that the log goes to, and its rotation by size, as etcd's flags ask for it.
//!
//! Invariant: a line is in one file, whole; where a rotation fails, the log goes on in the file that is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::OffsetDateTime;

const MEGABYTE: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// What etcd takes for a size of zero.
const MEGABYTES_DEFAULT: u64 = 100;
/// The time in the name of an old file: 2006-01-02T15-04-05.000
const STAMP_BYTES: usize = 23;

/// When a file is full, and which old ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    bytes_max: u64,
    /// Older ones are removed; `None`: never for their age.
    age_max: Option<Duration>,
    /// More of them are removed; `None`: any number stays.
    backups_max: Option<usize>,
}

/// Why `log-rotation-config-json` can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error("log-rotation-config-json: {0}")]
    Json(#[from] serde_json::Error),
    #[error("log-rotation-config-json: {0:?} is not supported yet; leave it away or false")]
    NotSupportedYet(&'static str),
    #[error("enable-log-rotation: log-outputs has to be the path of one file")]
    NotOneFile,
}

/// etcd's names, with its defaults.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    maxsize: u64,
    maxage: u32,
    maxbackups: usize,
    localtime: bool,
    compress: bool,
}

impl Default for Given {
    fn default() -> Self {
        Self { maxsize: MEGABYTES_DEFAULT, maxage: 0, maxbackups: 0, localtime: false, compress: false }
    }
}

impl Rotation {
    /// Reads etcd's JSON, for these outputs.
    pub fn parse(text: &str, outputs: &[String]) -> Result<Self, RotationError> {
        let given: Given = serde_json::from_str(text)?;
        for (name, asked) in [("localtime", given.localtime), ("compress", given.compress)] {
            if asked {
                return Err(RotationError::NotSupportedYet(name));
            }
        }
        let one_file = matches!(outputs, [only] if !matches!(only.as_str(), "default" | "stderr" | "stdout"));
        if !one_file {
            return Err(RotationError::NotOneFile);
        }
        let megabytes = if given.maxsize == 0 { MEGABYTES_DEFAULT } else { given.maxsize };
        Ok(Self {
            bytes_max: megabytes.saturating_mul(MEGABYTE),
            age_max: (given.maxage > 0).then(|| DAY.saturating_mul(given.maxage)),
            backups_max: (given.maxbackups > 0).then_some(given.maxbackups),
        })
    }
}

/// The open file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<Rotation>,
}

impl LogFile {
    /// Opens a file to append to.
    pub fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, rotation })
    }

    /// Writes a line; where the file would be too long with it, to a new one.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let added = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if let Some(rotation) = self.rotation
            && self.bytes > 0
            && self.bytes.saturating_add(added) > rotation.bytes_max
        {
            // Where it fails, the next try comes when as much again was written.
            self.bytes = 0;
            if let Err(error) = self.rotate(rotation) {
                let _ = writeln!(self.file, "cannot rotate {}: {error}", self.path.display());
            }
        }
        self.file.write_all(line)?;
        self.bytes = self.bytes.saturating_add(added);
        Ok(())
    }

    fn rotate(&mut self, rotation: Rotation) -> io::Result<()> {
        let mut at = SystemTime::now();
        let mut old = self.backup(&stamp(at));
        while old.exists() {
            at += Duration::from_millis(1);
            old = self.backup(&stamp(at));
        }
        match fs::rename(&self.path, &old) {
            // Somebody took it away: what comes goes to a new one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
        self.file = append_to(&self.path)?;
        self.remove_old(rotation)
    }

    /// Stem and end of the file's name: what stands before and behind the time in the names of old files.
    fn name_parts(&self) -> (String, String) {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let end = match self.path.extension() {
            Some(end) => format!(".{}", part(Some(end))),
            None => String::new(),
        };
        (format!("{}-", part(self.path.file_stem())), end)
    }

    fn backup(&self, stamp: &str) -> PathBuf {
        let (start, end) = self.name_parts();
        self.path.with_file_name(format!("{start}{stamp}{end}"))
    }

    fn remove_old(&self, rotation: Rotation) -> io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let (start, end) = self.name_parts();
        let mut stamps: Vec<String> = fs::read_dir(folder)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let stamp = name.strip_prefix(&start)?.strip_suffix(&end)?;
                is_stamp(stamp).then(|| stamp.to_owned())
            })
            .collect();
        stamps.sort_unstable_by(|one, other| other.cmp(one));
        let oldest = rotation
            .age_max
            .and_then(|age| SystemTime::now().checked_sub(age))
            .map(stamp)
            .unwrap_or_default();
        let kept = rotation.backups_max.unwrap_or(usize::MAX);
        let removed = stamps.iter().enumerate().filter(|(place, stamp)| *place >= kept || **stamp < oldest);
        for (_, stamp) in removed {
            fs::remove_file(self.backup(stamp))?;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A time as it stands in names: of equal length and rising with time, so that texts compare as times do.
fn stamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}-{:02}-{:02}.{:03}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

fn is_stamp(text: &str) -> bool {
    const FORM: &[u8; STAMP_BYTES] = b"0000-00-00T00-00-00.000";
    text.len() == STAMP_BYTES
        && text.bytes().zip(FORM).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == *form,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(bytes_max: u64) -> Rotation {
        Rotation { bytes_max, age_max: None, backups_max: None }
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_makes_room_for_the_next_and_no_line_is_lost() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("q.log");
        let mut log = LogFile::open(&path, Some(rotation(25))).expect("opens");
        for number in 0..5 {
            log.write_line(format!("line {number}....\n").as_bytes()).expect("written");
        }
        let names = files(folder.path());
        assert_eq!(names.len(), 3, "{names:?}");
        let text = |name: &String| fs::read_to_string(folder.path().join(name)).expect("readable");
        assert_eq!(text(&names[0]), "line 0....\nline 1....\n");
        assert_eq!(text(&names[1]), "line 2....\nline 3....\n");
        assert_eq!(names[2], "q.log");
        assert_eq!(text(&names[2]), "line 4....\n");
        // Found again, it goes on where it was.
        drop(log);
        let mut log = LogFile::open(&path, Some(rotation(25))).expect("opens");
        log.write_line(b"one line too long\n").expect("written");
        assert_eq!(files(folder.path()).len(), 4);
    }

    #[test]
    fn old_files_are_removed_by_number_and_by_age_and_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = stamp(SystemTime::now() - 3 * DAY);
        let ours = format!("q-{old}.log");
        let others = ["q-notes.log", "q.txt", "p-2001-01-01T00-00-00.000.log"];
        for name in others.iter().chain([&ours.as_str()]) {
            fs::write(folder.path().join(name), "x").expect("written");
        }
        let aged = Rotation { age_max: Some(2 * DAY), ..rotation(5) };
        let mut log = LogFile::open(&folder.path().join("q.log"), Some(aged)).expect("opens");
        log.write_line(b"12345\n").expect("written");
        assert!(folder.path().join(&ours).exists(), "nothing was rotated yet");
        log.write_line(b"67890\n").expect("written");
        assert!(!folder.path().join(&ours).exists(), "it was too old");
        log.rotation = Some(Rotation { backups_max: Some(1), ..rotation(5) });
        for _ in 0..3 {
            log.write_line(b"more\n").expect("written");
        }
        let names = files(folder.path());
        assert_eq!(names.iter().filter(|name| name.starts_with("q-2")).count(), 1, "{names:?}");
        assert!(others.iter().all(|other| names.iter().any(|name| name == other)), "{names:?}");
    }

    #[test]
    fn a_file_that_somebody_took_away_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("q.log");
        let mut log = LogFile::open(&path, Some(rotation(5))).expect("opens");
        log.write_line(b"first\n").expect("written");
        fs::remove_file(&path).expect("removed");
        log.write_line(b"second\n").expect("the log goes on");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "second\n");
    }

    #[test]
    fn a_rotation_that_fails_does_not_stop_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let (inner, moved) = (folder.path().join("inner"), folder.path().join("moved"));
        fs::create_dir(&inner).expect("made");
        let mut log = LogFile::open(&inner.join("q.log"), Some(rotation(5))).expect("opens");
        log.write_line(b"first\n").expect("written");
        fs::rename(&inner, &moved).expect("moved");
        log.write_line(b"second\n").expect("the log goes on");
        let text = fs::read_to_string(moved.join("q.log")).expect("readable");
        assert!(text.starts_with("first\ncannot rotate ") && text.ends_with("second\n"), "{text}");
    }

    #[test]
    fn etcds_json_is_understood_and_what_is_not_there_is_refused() {
        let file = ["/var/log/q.log".to_owned()];
        let parse = |text: &str| Rotation::parse(text, &file);
        let default =
            parse(r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#);
        assert_eq!(default.expect("fine"), rotation(100 * MEGABYTE));
        let own = parse(r#"{"maxsize": 1, "maxage": 7, "maxbackups": 3}"#).expect("fine");
        assert_eq!(own, Rotation { bytes_max: MEGABYTE, age_max: Some(7 * DAY), backups_max: Some(3) });
        for (text, expected) in [
            ("{", "log-rotation-config-json: EOF"),
            (r#"{"maxsize": -1}"#, "log-rotation-config-json: invalid value"),
            (r#"{"max": 1}"#, "unknown field `max`"),
            (r#"{"compress": true}"#, "\"compress\" is not supported yet"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
        }
        for outputs in [vec![], vec!["stderr".to_owned()], vec!["a".to_owned(), "b".to_owned()]] {
            assert!(matches!(Rotation::parse("{}", &outputs), Err(RotationError::NotOneFile)), "{outputs:?}");
        }
    }
}
