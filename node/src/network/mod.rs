//! The pod network.
pub mod feed;
pub mod nft;
pub mod view;
