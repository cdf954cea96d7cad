//! A stream whose writes do not wait for ever: one of which nothing is taken for too long fails.
//!
//! Without this a peer that takes nothing more, or a network that swallows everything, is noticed only when the system
//! gives up, which takes a quarter of an hour or never happens.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

pub(crate) struct Unstuck<S> {
    stream: S,
    patience: Duration,
    /// Set while a write waits.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstuck<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            until: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstuck<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstuck<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(written) = Pin::new(&mut this.stream).poll_write(context, bytes) {
            this.until = None;
            return Poll::Ready(written);
        }
        let patience = this.patience;
        let until = this.until.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(until.as_mut().poll(context));
        this.until = None;
        let why = format!("nothing that is sent arrives since {} s", patience.as_secs());
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, why)))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_write_waits_as_long_as_something_is_taken() {
        let (stream, mut peer) = tokio::io::duplex(10);
        let mut stream = Unstuck::new(stream, Duration::from_secs(2));
        let slowly = async {
            for _ in 0..10 {
                sleep(Duration::from_millis(300)).await;
                tokio::io::AsyncReadExt::read_exact(&mut peer, &mut [0; 10])
                    .await
                    .unwrap();
            }
        };
        let (written, ()) = tokio::join!(stream.write_all(&[7; 100]), slowly);
        written.unwrap();
        let error = stream.write_all(&[7; 100]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
