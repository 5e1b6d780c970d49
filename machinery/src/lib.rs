//! What API server, scheduler, controllers and node share: objects, schema tables, patches, selectors.
