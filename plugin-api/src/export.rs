//! The glue between an author's [`Connector`](crate::Connector) and the boundary, and the macro that exports it.

/// Exports a [`Connector`](crate::Connector) from a library of `crate-type = ["cdylib"]`: one line, once per library.
///
/// ```ignore
/// plakar_plugin_api::export_connector! {
///     type: MyConnector, name: "my", version: env!("CARGO_PKG_VERSION"), schemes: ["my"]
/// }
/// ```
///
/// A library built with `panic = "abort"` is refused: a panic there would end the host.
#[macro_export]
macro_rules! export_connector {
    (type: $connector:ty, name: $name:expr, version: $version:expr, schemes: [$($scheme:expr),+ $(,)?] $(,)?) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!("a connector must be built with panic = \"unwind\": a panic would end the host");

        const _: () = {
            extern "C" fn info() -> $crate::abi::RawPluginInfo {
                $crate::glue::info($name, $version, &[$($scheme),+])
            }

            extern "C" fn module() -> $crate::abi_stable::library::RootModuleResult {
                $crate::abi_stable::library::__call_root_module_loader(|| {
                    $crate::glue::module::<$connector>(info)
                })
            }

            // The name that abi_stable looks up, see `abi_stable::library::ROOT_MODULE_LOADER_NAME`.
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, reason = "the name is the loader's")]
            pub static _1as_0lib_1header_0root_bmodule_bloader: $crate::abi_stable::library::LibHeader =
                $crate::glue::header(module);
        };
    };
}

/// What the macro expands to calls; not for authors.
pub mod glue {
    use std::any::Any;
    use std::cell::{Cell, RefCell};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Once;

    use abi_stable::erased_types::TD_Opaque;
    use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleResult};
    use abi_stable::prefix_type::PrefixTypeTrait as _;
    use abi_stable::std_types::{RErr, ROption, RResult, RSlice, RSliceMut, RStr};

    use crate::abi::{
        ABI_MINOR, ConnectorModule, ConnectorModuleRef, RawCall, RawCapabilities, RawConnector,
        RawConnector_TO, RawConnectorBox, RawError, RawHost, RawListPage, RawObject, RawPluginInfo,
        RawPutOptions, RawResult, RawSetting, RawSpace,
    };
    use crate::connector::Connector;
    use crate::error::{Error, ErrorKind, Result};
    use crate::host::{Host, within_call};
    use crate::settings::Settings;
    use crate::types::PutOptions;

    /// What the connector says about itself.
    pub fn info(name: &str, version: &str, schemes: &[&str]) -> RawPluginInfo {
        RawPluginInfo {
            name: name.into(),
            version: version.into(),
            abi_minor: ABI_MINOR,
            schemes: schemes.iter().map(|&scheme| scheme.into()).collect(),
            reserved: [0; 4],
        }
    }

    /// The root module for a connector type.
    pub fn module<C: Connector>(info: extern "C" fn() -> RawPluginInfo) -> ConnectorModuleRef {
        ConnectorModule {
            info,
            open: open::<C>,
        }
        .leak_into_prefix()
    }

    /// The header that the loader reads.
    #[expect(unsafe_code, reason = "abi_stable's own way to declare a root module")]
    pub const fn header(constructor: extern "C" fn() -> RootModuleResult) -> LibHeader {
        // SAFETY: the only caller is the macro, whose constructor returns what `module` makes: a ConnectorModuleRef.
        unsafe { LibHeader::from_constructor::<ConnectorModuleRef>(constructor, CheckTypeLayout::Yes) }
    }

    extern "C" fn open<C: Connector>(
        location: RStr<'_>,
        settings: RSlice<'_, RawSetting>,
        host: RawHost,
    ) -> RawResult<RawConnectorBox> {
        remember_where_panics_happen();
        guard(move || {
            let settings: Settings = settings
                .iter()
                .map(|setting| (setting.name.as_str(), setting.value.as_str()))
                .collect();
            let connector = C::open(location.as_str(), &settings, Host::from_raw(host))?;
            Ok(RawConnector_TO::from_value(Guarded(Some(connector)), TD_Opaque))
        })
    }

    /// A connector whose calls, and whose end, cannot let a panic out.
    struct Guarded<C>(Option<C>);

    impl<C: Connector> Guarded<C> {
        fn call<T>(&self, call: RawCall, work: impl FnOnce(&C) -> Result<T>) -> RawResult<T> {
            guard(|| {
                let closed = || Error::new(ErrorKind::Other, "the connector is closed");
                within_call(call.id, || work(self.0.as_ref().ok_or_else(closed)?))
            })
        }
    }

    impl<C> Drop for Guarded<C> {
        fn drop(&mut self) {
            let connector = self.0.take();
            if let RErr(error) = guard(move || {
                drop(connector);
                Ok(())
            }) {
                drop(error);
            }
        }
    }

    impl<C: Connector> RawConnector for Guarded<C> {
        fn capabilities(&self, call: RawCall) -> RawResult<RawCapabilities> {
            self.call(call, |connector| Ok((&connector.capabilities()).into()))
        }

        fn probe(&self, call: RawCall) -> RawResult<RawCapabilities> {
            self.call(call, |connector| Ok((&connector.probe()?).into()))
        }

        fn init(&self, call: RawCall) -> RawResult<()> {
            self.call(call, Connector::init)
        }

        fn list(
            &self,
            call: RawCall,
            prefix: RStr<'_>,
            start_after: RStr<'_>,
            limit: u64,
        ) -> RawResult<RawListPage> {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            self.call(call, |connector| {
                Ok(connector
                    .list(prefix.as_str(), start_after.as_str(), limit)?
                    .into())
            })
        }

        fn stat(&self, call: RawCall, key: RStr<'_>) -> RawResult<RawObject> {
            self.call(call, |connector| Ok(connector.stat(key.as_str())?.into()))
        }

        fn get_into(
            &self,
            call: RawCall,
            key: RStr<'_>,
            offset: u64,
            mut buffer: RSliceMut<'_, u8>,
        ) -> RawResult<u64> {
            self.call(call, |connector| {
                let filled = connector.get_into(key.as_str(), offset, buffer.as_mut_slice())?;
                Ok(filled as u64)
            })
        }

        fn put(
            &self,
            call: RawCall,
            key: RStr<'_>,
            bytes: RSlice<'_, u8>,
            options: RawPutOptions,
        ) -> RawResult<()> {
            self.call(call, |connector| {
                connector.put(key.as_str(), bytes.as_slice(), PutOptions::try_from(options)?)
            })
        }

        fn delete(&self, call: RawCall, key: RStr<'_>) -> RawResult<()> {
            self.call(call, |connector| connector.delete(key.as_str()))
        }

        fn space(&self, call: RawCall) -> RawResult<ROption<RawSpace>> {
            self.call(call, |connector| {
                Ok(connector.space()?.map(RawSpace::from).into())
            })
        }

        fn close(&self, call: RawCall) -> RawResult<()> {
            self.call(call, Connector::close)
        }
    }

    thread_local! {
        static GUARDED: Cell<bool> = const { Cell::new(false) };
        static PANICKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    /// Runs an author's code; a panic becomes a `Panicked` error that says what and where.
    fn guard<T>(work: impl FnOnce() -> Result<T>) -> RawResult<T> {
        let outer = GUARDED.replace(true);
        let outcome = catch_unwind(AssertUnwindSafe(work));
        GUARDED.set(outer);
        match outcome {
            Ok(result) => RResult::from(result.map_err(RawError::from)),
            Err(payload) => {
                let place = PANICKED_AT
                    .take()
                    .map_or_else(String::new, |place| format!(" at {place}"));
                let message = format!("the connector panicked{place}: {}", panic_text(payload.as_ref()));
                // What was panicked with may panic in turn when it is dropped, and nothing would catch that: it is left.
                let _left = Box::leak(payload);
                RErr(Error::new(ErrorKind::Panicked, message).into())
            }
        }
    }

    fn panic_text(payload: &(dyn Any + Send)) -> &str {
        let text = payload.downcast_ref::<&str>().copied();
        text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("without a message")
    }

    /// A panic under `guard` is reported through its error, so the hook keeps its place and prints nothing.
    fn remember_where_panics_happen() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if GUARDED.get() {
                    PANICKED_AT.set(panic.location().map(ToString::to_string));
                } else {
                    previous(panic);
                }
            }));
        });
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_panic_becomes_an_error_with_its_message() {
            remember_where_panics_happen();
            let outcome = guard(|| -> Result<()> { panic!("out of cheese") });
            let error = Error::from(outcome.into_result().unwrap_err());
            assert_eq!(error.kind, ErrorKind::Panicked);
            assert!(error.message.contains("out of cheese"), "{}", error.message);
            assert!(error.message.contains("export.rs"), "{}", error.message);
            assert_eq!(guard(|| Ok(5)).into_result().unwrap(), 5);
        }

        #[test]
        fn a_panic_with_something_that_panics_when_dropped_is_one_error() {
            struct Bomb;
            impl Drop for Bomb {
                fn drop(&mut self) {
                    panic!("and again");
                }
            }
            let outcome = guard(|| -> Result<()> { std::panic::panic_any(Bomb) });
            let error = Error::from(outcome.into_result().unwrap_err());
            assert!(error.message.contains("without a message"), "{}", error.message);
        }

        #[test]
        fn the_exported_symbol_is_the_one_the_loader_looks_up() {
            assert_eq!(
                abi_stable::library::ROOT_MODULE_LOADER_NAME,
                "_1as_0lib_1header_0root_bmodule_bloader",
            );
        }
    }
}
