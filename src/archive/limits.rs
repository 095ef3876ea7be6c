//! How large an archive may be.

/// How large an archive may be. What is larger is refused before it fills the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of all files together once unpacked.
    pub unpacked_bytes: u64,
    /// Files, directories and links.
    pub files: u64,
}

impl Limits {
    /// Of a slug 1 GiB: Heroku refuses slugs over 500 MB, and hosts of one's own may be twice as generous.
    pub const ARCHIVE_BYTES: u64 = 1 << 30;
    /// Of a slug 4 GiB: code packs about 4:1, so what is far above this is a bomb and not an app.
    pub const UNPACKED_BYTES: u64 = 4 << 30;
    /// Of a slug 500,000: the largest `node_modules` folders hold some 100,000.
    pub const FILES: u64 = 500_000;
}

impl Default for Limits {
    /// Those of a slug.
    fn default() -> Self {
        Self { archive_bytes: Self::ARCHIVE_BYTES, unpacked_bytes: Self::UNPACKED_BYTES, files: Self::FILES }
    }
}
