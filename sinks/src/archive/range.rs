//! Rebuilds the groups of a range from its files, and proves each by its digest.

use arrow::array::RecordBatch;
use tidegate_facts::Digest;

use super::manifest::Range;
use super::{ArchiveError, shred};
use crate::log::{Frame, Group, LogMark, RawEncoder, RawGroup};
use crate::store::Store;

/// The groups of one range, in order.
pub(super) struct RangeGroups<'r> {
    range: &'r Range,
    files: Vec<RecordBatch>,
    /// How many rows of each file were given.
    given: Vec<usize>,
    /// Where the next group begins.
    mark: LogMark,
    encoder: RawEncoder,
    /// Over the bytes of the groups so far.
    hasher: blake3::Hasher,
}

impl<'r> RangeGroups<'r> {
    /// Reads the files of a range from its store, each against its digest.
    pub(super) fn open(range: &'r Range, store: &Store) -> Result<RangeGroups<'r>, ArchiveError> {
        let mut files = Vec::new();
        for file in &range.files {
            let broken = |what: String| ArchiveError::File { name: file.name.clone(), what };
            let bytes = store.read(&file.name).map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                broken(format!("cannot be read ({cause})"))
            })?;
            if bytes.len() as u64 != file.bytes {
                return Err(broken(format!("has {} bytes and should have {}", bytes.len(), file.bytes)));
            }
            let found = Digest::of(&bytes);
            if found != file.digest {
                return Err(broken(format!("has digest {found} and should have {}", file.digest)));
            }
            let rows = shred::decode(bytes).map_err(|error| broken(format!("is no Parquet: {error}")))?;
            files.push(rows);
        }
        Ok(RangeGroups::over(range, files))
    }

    /// The groups of a range whose files hold `files`.
    pub(super) fn over(range: &'r Range, files: Vec<RecordBatch>) -> RangeGroups<'r> {
        let given = vec![0; files.len()];
        let (mark, encoder) = (range.start.clone(), RawEncoder::new());
        RangeGroups { range, files, given, mark, encoder, hasher: blake3::Hasher::new() }
    }

    /// The bytes of the next group as its rows alone tell them; `None` behind the last.
    pub(super) fn unpatched(&mut self) -> Result<Option<Vec<u8>>, ArchiveError> {
        let place = (self.mark.group - self.range.start.group) as usize;
        let Some(archived) = self.range.groups.get(place) else { return Ok(None) };
        let (group, name) = (self.mark.group, self.range.name());
        let broken = move |what: String| ArchiveError::Group { name: name.clone(), group, what };
        let mut frames = Vec::with_capacity(archived.frames.len());
        for (number, frame) in archived.frames.iter().enumerate() {
            let (Some(file), Some(rows)) = (self.range.files.get(frame.file), self.files.get(frame.file))
            else {
                return Err(broken("names a file that its manifest does not list".to_owned()));
            };
            let texts = |place: usize| -> Result<Option<&Vec<String>>, ArchiveError> {
                match frame.dictionaries.get(place).copied().flatten() {
                    None => Ok(None),
                    Some(at) => self.range.dictionaries.get(at).map(Some).ok_or_else(|| {
                        broken("names a dictionary that its manifest does not list".to_owned())
                    }),
                }
            };
            let dictionaries = file.dictionaries.iter().enumerate();
            let dictionaries = dictionaries
                .map(|(i, path)| Ok((path, texts(i)?)))
                .collect::<Result<Vec<_>, ArchiveError>>()?;
            let at = self.given[frame.file];
            let rows = shred::frame(rows, (at, frame.rows), (group, number as u32), &dictionaries)
                .map_err(&broken)?;
            self.given[frame.file] += frame.rows;
            frames.push(Frame { topic: file.topic, name: file.frame.clone(), rows });
        }
        let rebuilt =
            Group { frames, lower: self.mark.upper, upper: archived.upper, commit: archived.commit };
        let bytes = self.encoder.encode(&self.mark, &rebuilt).map_err(broken)?;
        Ok(Some(bytes.to_vec()))
    }

    /// The next group as it stood in the log; `None` behind the last, and then the range was whole.
    pub(super) fn next(&mut self) -> Result<Option<RawGroup>, ArchiveError> {
        let (name, group) = (self.range.name(), self.mark.group);
        let broken = |what: String| ArchiveError::Group { name: name.clone(), group, what };
        let Some(mut bytes) = self.unpatched()? else {
            return self.check_end().map(|()| None);
        };
        let archived = &self.range.groups[(group - self.range.start.group) as usize];
        for (at, patch) in &archived.patch {
            let patch = from_hex(patch).ok_or_else(|| broken("has a patch that is no bytes".to_owned()))?;
            let place =
                usize::try_from(*at).ok().and_then(|at| bytes.get_mut(at..at.checked_add(patch.len())?));
            place.ok_or_else(|| broken("has a patch behind its end".to_owned()))?.copy_from_slice(&patch);
        }
        let found = Digest::of(&bytes);
        if found != archived.digest {
            return Err(broken(format!("has digest {found} and should have {}", archived.digest)));
        }
        self.hasher.update(&bytes);
        let raw = RawGroup::decode(&bytes).map_err(broken)?;
        self.mark = self.mark.after(&raw).map_err(broken)?;
        Ok(Some(raw))
    }

    /// Takes a group as the next without rebuilding it.
    pub(super) fn follow(&mut self, raw: &RawGroup) -> Result<(), String> {
        self.mark = self.mark.after(raw)?;
        Ok(())
    }

    fn check_end(&self) -> Result<(), ArchiveError> {
        let broken = |what: &str| ArchiveError::Manifest { name: self.range.name(), what: what.to_owned() };
        if self.mark != self.range.end {
            return Err(broken("does not end where its groups end"));
        }
        if Digest(*self.hasher.finalize().as_bytes()) != self.range.digest {
            return Err(broken("has another digest than its groups together"));
        }
        for ((file, rows), given) in self.range.files.iter().zip(&self.files).zip(&self.given) {
            if rows.num_rows() != *given || file.rows != *given as u64 {
                let what = format!("holds {} rows, and its groups {given}", rows.num_rows());
                return Err(ArchiveError::File { name: file.name.clone(), what });
            }
        }
        Ok(())
    }
}

/// Where bytes differ from those that were rebuilt, if they are as many: places and right bytes.
pub(super) fn patch(rebuilt: &[u8], raw: &RawGroup) -> Option<Vec<(u64, String)>> {
    let (head, body) = raw.bytes();
    if rebuilt.len() != head.len() + body.len() {
        return None;
    }
    let mut patch: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut compare = |from: usize, right: &[u8]| {
        let wrong = &rebuilt[from..from + right.len()];
        if wrong == right {
            return;
        }
        for (at, (_, right)) in wrong.iter().zip(right).enumerate().filter(|(_, (a, b))| a != b) {
            let at = (from + at) as u64;
            match patch.last_mut().filter(|(start, bytes)| start + bytes.len() as u64 == at) {
                Some((_, bytes)) => bytes.push(*right),
                None => patch.push((at, vec![*right])),
            }
        }
    };
    compare(0, &head);
    // In parts, as nearly all of them are equal.
    for (i, part) in body.chunks(4096).enumerate() {
        compare(head.len() + i * 4096, part);
    }
    Some(patch.into_iter().map(|(at, bytes)| (at, to_hex(&bytes))).collect())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
