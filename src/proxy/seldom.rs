//! Between the steps: what ends a connection seldom, waited for beside what moves on it all the time.

use futures_util::stream::{FuturesUnordered, StreamExt as _};

/// The same future, polled only when it was woken itself.
///
/// `select!` polls each branch whenever any of them is woken. A branch that waits for a signal or a deadline would be asked twice for every
/// request, and answer "not yet" in code that has long left the caches.
pub(super) async fn seldom<T>(future: impl Future<Output = T>) -> T {
    let mut alone = FuturesUnordered::new();
    alone.push(future);
    match alone.next().await {
        Some(output) => output,
        // The one future is in there until it has ended.
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_only_when_it_is_woken() {
        let polls = Arc::new(AtomicUsize::new(0));
        let (signal, waits) = tokio::sync::oneshot::channel();
        let mut waits = std::pin::pin!(seldom({
            let polls = polls.clone();
            let mut waits = waits;
            std::future::poll_fn(move |cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                std::pin::Pin::new(&mut waits).poll(cx)
            })
        }));
        let mut busy = 0;
        let heard: Result<&str, _> = std::future::poll_fn(|cx| {
            if let Poll::Ready(heard) = waits.as_mut().poll(cx) {
                return Poll::Ready(heard);
            }
            busy += 1;
            cx.waker().wake_by_ref();
            if busy == 100 { Poll::Ready(Ok("still busy")) } else { Poll::Pending }
        })
        .await;
        assert_eq!((heard.unwrap(), polls.load(Ordering::Relaxed)), ("still busy", 1));
        signal.send("done").unwrap();
        assert_eq!(waits.await.unwrap(), "done");
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
