//! The column families of the applied state and how each is tuned.

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options};

use crate::blocking;

/// The column families, in the order of `Column::ALL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Small single records: revisions, applied index, auth, alarms, format.
    Meta,
    /// User key → the newest `KeyValue`. Reads at the latest revision touch nothing else.
    Latest,
    /// Escaped user key + inverted revision → where the event stands. Finds a key as of a past revision.
    Versions,
    /// Revision + sub-revision → the event. What watchers that are behind read.
    Events,
    /// Lease id → its granted time.
    Leases,
    /// Lease id + user key → nothing. The keys that go with a lease.
    LeaseKeys,
}

impl Column {
    /// Every column family.
    pub const ALL: [Column; 6] =
        [Column::Meta, Column::Latest, Column::Versions, Column::Events, Column::Leases, Column::LeaseKeys];

    /// The name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Column::Meta => "default",
            Column::Latest => "latest",
            Column::Versions => "versions",
            Column::Events => "events",
            Column::Leases => "leases",
            Column::LeaseKeys => "lease_keys",
        }
    }

    /// Bytes of one in-memory table before it is flushed. Two may exist at once.
    fn write_buffer_bytes(self) -> usize {
        match self {
            Column::Latest | Column::Events => 8 << 20,
            Column::Versions => 4 << 20,
            Column::Meta | Column::Leases | Column::LeaseKeys => 2 << 20,
        }
    }

    /// The descriptor RocksDB opens this family with; `cache` is shared by all.
    pub fn descriptor(self, cache: &Cache) -> ColumnFamilyDescriptor {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        table.set_format_version(5);
        table.set_block_size(16 << 10);
        if matches!(self, Column::Latest | Column::Leases) {
            // A put of a new key asks for the old one first; the filter answers without reading a block.
            table.set_bloom_filter(10.0, false);
        }
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(self.write_buffer_bytes());
        options.set_max_write_buffer_number(3);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compression_type(DBCompressionType::Lz4);
        // Compaction decides how many files a snapshot has, and runs when it likes: a simulation, in which nothing may run
        // beside its one thread, replays only without it.
        options.set_disable_auto_compactions(blocking::is_single_threaded());
        ColumnFamilyDescriptor::new(self.name(), options)
    }
}
