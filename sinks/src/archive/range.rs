//! Rebuilds the groups of an archived range from its files, and proves each by its digest.

use arrow::array::RecordBatch;
use tidegate_facts::Digest;

use super::manifest::ArchivedRange;
use super::{ArchiveError, columnar};
use crate::commits::read_rows;
use crate::log::{Frame, Group, LogPosition, RawEncoder, RawGroup};
use crate::store::Store;

/// The groups of one archived range, in order.
pub(super) struct RangeGroups<'r> {
    range: &'r ArchivedRange,
    files: Vec<RecordBatch>,
    /// The number of rows of each file that belong to the groups so far.
    used: Vec<usize>,
    /// The position in front of the next group.
    position: LogPosition,
    encoder: RawEncoder,
    /// The hash of the bytes of the groups so far.
    hasher: blake3::Hasher,
}

impl<'r> RangeGroups<'r> {
    /// Reads the files of a range, and checks each against its digest.
    pub(super) fn open(range: &'r ArchivedRange, store: &Store) -> Result<RangeGroups<'r>, ArchiveError> {
        let mut files = Vec::new();
        for file in &range.files {
            let broken = |what: String| ArchiveError::File { name: file.name.clone(), what };
            let bytes = store.get(&file.name).map_err(|error| {
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
            let rows = read_rows(bytes, None).map_err(|what| broken(format!("is not Parquet: {what}")))?;
            files.push(rows);
        }
        Ok(RangeGroups::over(range, files))
    }

    /// The groups of a range whose files have these rows.
    pub(super) fn over(range: &'r ArchivedRange, files: Vec<RecordBatch>) -> RangeGroups<'r> {
        let used = vec![0; files.len()];
        let (position, encoder) = (range.start.clone(), RawEncoder::new());
        RangeGroups { range, files, used, position, encoder, hasher: blake3::Hasher::new() }
    }

    /// The bytes of the next group as they follow from its rows, without the patch; `None` after
    /// the last.
    pub(super) fn unpatched(&mut self) -> Result<Option<Vec<u8>>, ArchiveError> {
        let index = (self.position.group - self.range.start.group) as usize;
        let Some(archived) = self.range.groups.get(index) else { return Ok(None) };
        let (group, name) = (self.position.group, self.range.name());
        let broken = move |what: String| ArchiveError::Group { name: name.clone(), group, what };
        let mut frames = Vec::with_capacity(archived.frames.len());
        for (number, frame) in archived.frames.iter().enumerate() {
            let (Some(file), Some(rows)) = (self.range.files.get(frame.file), self.files.get(frame.file))
            else {
                return Err(broken("names a file that its manifest does not list".to_owned()));
            };
            let texts = |column: usize| -> Result<Option<&Vec<String>>, ArchiveError> {
                match frame.dictionaries.get(column).copied().flatten() {
                    None => Ok(None),
                    Some(index) => self.range.dictionaries.get(index).map(Some).ok_or_else(|| {
                        broken("names a dictionary that its manifest does not list".to_owned())
                    }),
                }
            };
            let dictionaries = file.dictionaries.iter().enumerate();
            let dictionaries = dictionaries
                .map(|(i, path)| Ok((path, texts(i)?)))
                .collect::<Result<Vec<_>, ArchiveError>>()?;
            let at = self.used[frame.file];
            let ids = (group as i64, number as i32);
            let rows =
                columnar::restore_frame(rows, (at, frame.rows), ids, &dictionaries).map_err(&broken)?;
            self.used[frame.file] += frame.rows;
            frames.push(Frame { topic: file.topic, name: file.frame.clone(), rows });
        }
        let rebuilt =
            Group { frames, lower: self.position.upper, upper: archived.upper, commit: archived.commit };
        let bytes = self.encoder.encode(&self.position, archived.epoch, &rebuilt).map_err(broken)?;
        Ok(Some(bytes.to_vec()))
    }

    /// The next group as the log stores it; `None` after the last, once the range was found to be
    /// whole.
    pub(super) fn next(&mut self) -> Result<Option<RawGroup>, ArchiveError> {
        let (name, group) = (self.range.name(), self.position.group);
        let broken = |what: String| ArchiveError::Group { name: name.clone(), group, what };
        let Some(mut bytes) = self.unpatched()? else {
            return self.check_end().map(|()| None);
        };
        let archived = &self.range.groups[(group - self.range.start.group) as usize];
        for (at, patch) in &archived.patch {
            let patch =
                from_hex(patch).ok_or_else(|| broken("has a patch that is not hexadecimal".to_owned()))?;
            let patched =
                usize::try_from(*at).ok().and_then(|at| bytes.get_mut(at..at.checked_add(patch.len())?));
            patched.ok_or_else(|| broken("has a patch after its end".to_owned()))?.copy_from_slice(&patch);
        }
        let raw = RawGroup::decode(&bytes, self.position.offset, name.as_ref()).map_err(&broken)?;
        let found = raw.digest();
        if found != archived.digest {
            return Err(broken(format!("has digest {found} and should have {}", archived.digest)));
        }
        self.hasher.update(&bytes);
        self.position = self.position.after(&raw).map_err(broken)?;
        Ok(Some(raw))
    }

    /// Goes past the next group, which is `raw`, without rebuilding it.
    pub(super) fn skip(&mut self, raw: &RawGroup) -> Result<(), String> {
        self.position = self.position.after(raw)?;
        Ok(())
    }

    fn check_end(&self) -> Result<(), ArchiveError> {
        let broken = |what: &str| ArchiveError::Manifest { name: self.range.name(), what: what.to_owned() };
        if self.position != self.range.end {
            return Err(broken("does not end where its groups end"));
        }
        if Digest(*self.hasher.finalize().as_bytes()) != self.range.digest {
            return Err(broken("has another digest than its groups together"));
        }
        for ((file, rows), used) in self.range.files.iter().zip(&self.files).zip(&self.used) {
            if rows.num_rows() != *used || file.rows != *used as u64 {
                let what = format!("has {} rows, and its groups have {used}", rows.num_rows());
                return Err(ArchiveError::File { name: file.name.clone(), what });
            }
        }
        Ok(())
    }
}

/// The bytes of a group that differ from the rebuilt ones, each run with its index; `None` when the
/// sizes differ.
pub(super) fn patch(rebuilt: &[u8], raw: &RawGroup) -> Option<Vec<(u64, String)>> {
    let (head, body) = raw.bytes();
    if rebuilt.len() != head.len() + body.len() {
        return None;
    }
    let mut patch: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut compare = |from: usize, expected: &[u8]| {
        let found = &rebuilt[from..from + expected.len()];
        if found == expected {
            return;
        }
        for (at, (_, byte)) in found.iter().zip(expected).enumerate().filter(|(_, (a, b))| a != b) {
            let at = (from + at) as u64;
            match patch.last_mut().filter(|(start, bytes)| start + bytes.len() as u64 == at) {
                Some((_, bytes)) => bytes.push(*byte),
                None => patch.push((at, vec![*byte])),
            }
        }
    };
    compare(0, &head);
    // In chunks, nearly all of which are equal.
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
