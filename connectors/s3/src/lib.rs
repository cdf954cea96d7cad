//! The S3 connector: objects in a bucket of an S3 object store.
