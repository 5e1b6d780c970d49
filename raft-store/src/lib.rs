//! An etcd v3 store on openraft and RocksDB: server and library.
