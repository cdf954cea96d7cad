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
    table: Table,
}

impl Segment {
    pub(super) fn new(id: SegmentId, packs: Vec<Arc<PackInfo>>, table: Table) -> Self {
        Self { id, packs, table }
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

    pub(super) fn find(&self, id: &BlobId, absent: &HashSet<PackId>) -> Result<Option<Place>, ReadError> {
        let first = self.table.lower_bound(id);
        for row in first..self.len() {
            match self.table.entry(row)? {
                Some(entry) if entry.id == *id => {
                    let place = self.place(&entry)?;
                    if absent.is_empty() || !absent.contains(&place.pack.id) {
                        return Ok(Some(place));
                    }
                }
                _ => break,
            }
        }
        Ok(None)
    }

    pub(super) fn places(&self, id: &BlobId, places: &mut Vec<Place>) -> Result<(), ReadError> {
        for row in self.table.lower_bound(id)..self.len() {
            match self.table.entry(row)? {
                Some(entry) if entry.id == *id => places.push(self.place(&entry)?),
                _ => break,
            }
        }
        Ok(())
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

    pub(super) fn entry(&self, row: usize) -> Result<Option<IndexEntry>, ReadError> {
        self.table.entry(row)
    }

    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(&Arc<PackInfo>, &IndexEntry),
    ) -> Result<(), ReadError> {
        for row in 0..self.len() {
            if let Some(entry) = self.table.entry(row)? {
                visit(self.pack_of(&entry)?, &entry);
            }
        }
        Ok(())
    }
}
