//! kafka+tls:// with an authority of one's own, in front of a broker that speaks plainly.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ringhall::bridge::Delivery::LocalFirst;
use ringhall::broker::Options;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certificates;
use crate::peer::{Peer, local, options, publish, until};
use crate::tansu::Tansu;

/// Takes the TLS off what comes, and passes it on.
async fn relay(listener: TcpListener, acceptor: TlsAcceptor, broker: SocketAddr) {
    loop {
        let (outside, _) = listener.accept().await.expect("a connection");
        let acceptor = acceptor.clone();
        tokio::task::spawn_local(async move {
            // A client that does not trust us hangs up.
            let Ok(mut outside) = acceptor.accept(outside).await else { return };
            let mut inside = TcpStream::connect(broker).await.expect("the broker");
            let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
        });
    }
}

fn acceptor(folder: &Path) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(folder.join("server.pem"));
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("a certificate")], key);
    TlsAcceptor::from(Arc::new(config.expect("a pair")))
}

#[test]
fn the_authority_of_broker_ca_is_trusted_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    certificates::make(folder.path());
    local(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let outside = listener.local_addr().expect("bound");
        let broker = Tansu::behind(Some(outside));
        let serving = relay(listener, acceptor(folder.path()), broker.address());
        let serving = tokio::task::spawn_local(serving);

        let url = format!("kafka+tls://{outside}");
        let ours = options(&url, LocalFirst, 1);
        let one = Peer::with(&Options { ca: Some(folder.path().join("ca.pem")), ..ours.clone() });
        let session = one.connect().await;
        publish(&*session, &[one.words(5, "x")]).await.expect("published");
        until("it is heard", || one.ear.count() == 1).await;

        // The usual authorities do not know this one.
        let error = Peer::with(&ours).try_connect().await.err().expect("refused");
        assert!(error.0.contains("broker.ca"), "{error}");
        serving.abort();
    });
}
