//! TLS in front of a server that speaks none: with a certificate made on the spot, signed by an authority made on the spot.

use std::fs;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A listener on a free port of the loopback device, until it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    port: u16,
    folder: TempDir,
    runtime: Option<Runtime>,
}

impl TlsFront {
    /// Stands in front of the server at `HOST:PORT`, with a certificate for `names`.
    pub fn before(server: &str, names: &[&str]) -> Self {
        let folder = TempDir::with_prefix("plakar-tls-").expect("a temporary folder");
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new(Vec::<String>::new()).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = authority.self_signed(&authority_key).expect("a certificate");
        fs::write(folder.path().join("authority.pem"), signed.pem()).expect("a file");
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &Issuer::new(authority, authority_key)))
            .expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("usual versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate and its key");
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("a bound port").port();
        let runtime = Runtime::new().expect("threads");
        runtime.spawn(accept(listener, Arc::new(config), server.to_owned()));
        Self {
            port,
            folder,
            runtime: Some(runtime),
        }
    }

    /// Where it listens, under the name `host`.
    pub fn endpoint(&self, host: &str) -> String {
        format!("{host}:{}", self.port)
    }

    /// The certificate of the authority, as PEM.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

async fn accept(listener: StdListener, config: Arc<ServerConfig>, server: String) {
    let listener = TcpListener::from_std(listener).expect("a socket");
    let acceptor = TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, server) = (acceptor.clone(), server.clone());
        tokio::spawn(async move {
            // How a connection ends is the client's business.
            let mut client = acceptor.accept(stream).await?;
            let mut server = TcpStream::connect(server).await?;
            copy_bidirectional(&mut client, &mut server).await
        });
    }
}
