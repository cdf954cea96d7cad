//! One segment in use: its packs and its table.

use std::collections::HashSet;
use std::sync::Arc;

use crate::format::index_segment::{IndexEntry, PackInfo};
use crate::id::{BlobId, PackId, SegmentId};
use crate::read_error::ReadError;

use super::Place;
use super::table::Table;

/// A searchable segment.
#[derive(Debug)]
pub(super) struct Segment {
    id: SegmentId,
    packs: Vec<Arc<PackInfo>>,
    superseded: Vec<[u8; 8]>,
    table: Table,
}

impl Segment {
    pub(super) fn new(
        id: SegmentId,
        packs: Vec<Arc<PackInfo>>,
        superseded: Vec<[u8; 8]>,
        table: Table,
    ) -> Self {
        Self {
            id,
            packs,
            superseded,
            table,
        }
    }

    /// First bytes of the ids of segments that this one replaces.
    pub(super) fn superseded(&self) -> &[[u8; 8]] {
        &self.superseded
    }

    /// The segment's id; all zero when it exists in this process only.
    pub(super) fn id(&self) -> SegmentId {
        self.id
    }

    pub(super) fn packs(&self) -> &[Arc<PackInfo>] {
        &self.packs
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    fn pack_of(&self, entry: &IndexEntry) -> Result<&Arc<PackInfo>, ReadError> {
        usize::try_from(entry.pack)
            .ok()
            .and_then(|ordinal| self.packs.get(ordinal))
            .ok_or_else(|| ReadError::damaged(format!("index segment {}", self.id), "an entry names no pack"))
    }

    /// Rows of a blob, in order.
    fn rows_of(&self, id: &BlobId) -> impl Iterator<Item = Result<IndexEntry, ReadError>> {
        let mut next = self.table.first_of(id).transpose();
        std::iter::from_fn(move || {
            let row = match next.take()? {
                Ok(row) => row,
                Err(error) => return Some(Err(error)),
            };
            match self.table.entry(row) {
                Ok(Some(entry)) if entry.id == *id => {
                    next = Some(Ok(row + 1));
                    Some(Ok(entry))
                }
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            }
        })
    }

    pub(super) fn find(&self, id: &BlobId, absent: &HashSet<PackId>) -> Result<Option<Place>, ReadError> {
        for entry in self.rows_of(id) {
            let place = self.place(&entry?)?;
            if absent.is_empty() || !absent.contains(&place.pack.id) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    pub(super) fn places(&self, id: &BlobId) -> Result<Vec<Place>, ReadError> {
        self.rows_of(id).map(|entry| self.place(&entry?)).collect()
    }

    fn place(&self, entry: &IndexEntry) -> Result<Place, ReadError> {
        Ok(Place {
            pack: Arc::clone(self.pack_of(entry)?),
            frame_offset: entry.frame_offset,
            frame_length: entry.frame_length,
            blob_offset: entry.blob_offset,
            blob_length: entry.blob_length,
        })
    }

    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(&Arc<PackInfo>, &IndexEntry),
    ) -> Result<(), ReadError> {
        self.table.for_each(|entry| {
            visit(self.pack_of(&entry)?, &entry);
            Ok(())
        })
    }
}
