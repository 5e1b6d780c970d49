//! The client's own rate limit: a token bucket in front of the service, as client-go has it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tower::{Layer, Service};

/// A bucket of tokens, filled at a steady rate. Pure: the caller says what time it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    per_sec: f64,
    burst: f64,
    /// May be negative: tokens that were promised to callers who wait.
    tokens: f64,
    filled_at: Duration,
}

impl Bucket {
    /// A full bucket. The burst is at least one.
    pub fn new(per_sec: f64, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Bucket { per_sec: per_sec.max(f64::MIN_POSITIVE), burst, tokens: burst, filled_at: Duration::ZERO }
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_sec).min(self.burst);
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes a token and returns how long its taker must wait.
    pub fn take(&mut self, now: Duration) -> Duration {
        self.fill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.tokens / self.per_sec).unwrap_or(Duration::MAX)
    }

    /// Takes a token if one is there.
    pub fn try_take(&mut self, now: Duration) -> bool {
        self.fill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }
}

/// Puts a [`Bucket`] in front of a service.
#[derive(Clone, Debug)]
pub struct QpsLayer {
    qps: f32,
    burst: u32,
}

impl QpsLayer {
    pub fn new(qps: f32, burst: u32) -> Self {
        QpsLayer { qps, burst }
    }
}

impl<S> Layer<S> for QpsLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        let bucket = Bucket::new(f64::from(self.qps), self.burst);
        Limited { inner, bucket, start: Instant::now(), turn: Turn::None }
    }
}

/// Whether the next call has its token.
#[derive(Debug)]
enum Turn {
    None,
    Waiting(Pin<Box<Sleep>>),
    Ready,
}

/// A service that is ready as often as its bucket allows.
#[derive(Debug)]
pub struct Limited<S> {
    inner: S,
    bucket: Bucket,
    start: Instant,
    turn: Turn,
}

impl<S, R> Service<R> for Limited<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        loop {
            match &mut self.turn {
                Turn::Ready => return self.inner.poll_ready(cx),
                Turn::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.turn = Turn::Ready;
                }
                Turn::None => {
                    let wait = self.bucket.take(self.start.elapsed());
                    self.turn = if wait.is_zero() {
                        Turn::Ready
                    } else {
                        Turn::Waiting(Box::pin(tokio::time::sleep(wait)))
                    };
                }
            }
        }
    }

    fn call(&mut self, request: R) -> S::Future {
        self.turn = Turn::None;
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let mut bucket = Bucket::new(10.0, 2);
        let at = Duration::from_millis;
        assert_eq!([bucket.take(at(0)), bucket.take(at(0))], [at(0), at(0)]);
        assert_eq!([bucket.take(at(0)), bucket.take(at(0))], [at(100), at(200)]);
        assert!(!bucket.try_take(at(250)));
        assert!(bucket.try_take(at(300)));
        // Never more than the burst, however long nobody came.
        assert_eq!(
            [bucket.take(at(9000)), bucket.take(at(9000)), bucket.take(at(9000))],
            [at(0), at(0), at(100)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_waits() {
        use tower::ServiceExt;
        let mut service =
            QpsLayer::new(10.0, 1).layer(tower::service_fn(|n: u32| async move { Ok::<_, ()>(n) }));
        let start = Instant::now();
        for n in 0..5 {
            assert_eq!(service.ready().await.expect("ready").call(n).await, Ok(n));
        }
        assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    }
}
