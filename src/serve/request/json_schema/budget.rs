//! How much rewriting the schemas of a request may take, since a short schema may lead to a long one.

/// Schemas of names that are read for the schemas of a request at most: a reference may lead to many of them, and each to many more.
const NAMES_READ_MAX: usize = 4096;
/// Bytes that rewriting adds to the schemas of a request at most.
const WRITTEN_BYTES_MAX: usize = 1 << 20;

/// What rewriting the schemas of a request may still take.
#[derive(Debug)]
pub struct Budget {
    reads: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { reads: NAMES_READ_MAX, bytes: WRITTEN_BYTES_MAX }
    }
}

impl Budget {
    /// One more schema of names is read.
    pub(super) fn read(&mut self) -> Result<(), String> {
        self.reads = self.reads.checked_sub(1).ok_or_else(|| {
            format!(
                "its propertyNames lead to more than {NAMES_READ_MAX} schemas; give the names in one enum or pattern"
            )
        })?;
        Ok(())
    }

    /// So many bytes more are written.
    pub(super) fn write(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(|| {
            format!(
                "written out for a grammar it grows by more than {WRITTEN_BYTES_MAX} bytes; give fewer names in propertyNames or fewer \
                 patterns"
            )
        })?;
        Ok(())
    }
}
