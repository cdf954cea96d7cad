//! The two tables of functions, the connector's with a method that today's host does not know.

use abi_stable::sabi_trait;
use abi_stable::std_types::{ROption, RSlice, RSliceMut, RStr};

use super::RawResult;
use super::types::{RawCall, RawCapabilities, RawListPage, RawObject, RawPutOptions, RawSpace};

/// See [`Connector`](crate::Connector).
#[sabi_trait]
pub trait RawConnector: Send + Sync {
    fn capabilities(&self, call: RawCall) -> RawResult<RawCapabilities>;
    fn probe(&self, call: RawCall) -> RawResult<RawCapabilities>;
    fn init(&self, call: RawCall) -> RawResult<()>;
    fn list(
        &self,
        call: RawCall,
        prefix: RStr<'_>,
        start_after: RStr<'_>,
        limit: u64,
    ) -> RawResult<RawListPage>;
    fn stat(&self, call: RawCall, key: RStr<'_>) -> RawResult<RawObject>;
    fn get_into(
        &self,
        call: RawCall,
        key: RStr<'_>,
        offset: u64,
        buffer: RSliceMut<'_, u8>,
    ) -> RawResult<u64>;
    fn put(
        &self,
        call: RawCall,
        key: RStr<'_>,
        bytes: RSlice<'_, u8>,
        options: RawPutOptions,
    ) -> RawResult<()>;
    fn delete(&self, call: RawCall, key: RStr<'_>) -> RawResult<()>;
    fn space(&self, call: RawCall) -> RawResult<ROption<RawSpace>>;
    #[sabi(last_prefix_field)]
    fn close(&self, call: RawCall) -> RawResult<()>;
    fn added(&self) -> u64 {
        4242
    }
}

/// See [`Host`](crate::Host). None of these may panic or block for long.
#[sabi_trait]
pub trait HostServices: Send + Sync {
    fn log(&self, level: u8, target: RStr<'_>, message: RStr<'_>);
    fn cancelled(&self, call: u64) -> bool;
    #[sabi(last_prefix_field)]
    fn progress(&self, call: u64, bytes: u64);
}
