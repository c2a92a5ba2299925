//! A faulty way to a server: a proxy that loses connections, refuses and dawdles as networks and balancers do.
//!
//! Which fault befalls a request is drawn from its body and the number of the attempt, so that a run can be repeated
//! whatever the order in which requests come.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What befalls a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset before the server hears of the request.
    ResetBefore,
    /// The server gets the request, and the connection is reset before an answer.
    ResetAfter,
    /// The server gets the request; 200 and blank lines arrive, then the connection is reset.
    ResetAfterBlankLines,
    /// 429, with a moment to come back.
    TooMany,
    /// 503, with a moment to come back.
    Overloaded,
    /// The server gets the request late.
    SlowStart,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 6] = [
        Self::ResetBefore,
        Self::ResetAfter,
        Self::ResetAfterBlankLines,
        Self::TooMany,
        Self::Overloaded,
        Self::SlowStart,
    ];
}

/// The proxy; it ends with its owner.
pub struct FaultyProxy {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    listening: JoinHandle<()>,
}

/// Which attempts meet a fault.
#[derive(Clone, Copy)]
enum Plan {
    /// So many of a thousand, drawn by a seed.
    Drawn { per_mille: u64, seed: u64 },
    /// The first try of every request, after the server has it.
    FirstAnswersLost,
}

struct State {
    upstream: Mutex<SocketAddr>,
    plan: Plan,
    attempts: AtomicU32,
    met: [AtomicU32; Fault::ALL.len()],
}

impl FaultyProxy {
    /// A proxy to `upstream` that lets so many of a thousand attempts meet a fault.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(upstream: SocketAddr, per_mille: u64, seed: u64) -> Self {
        Self::by(upstream, Plan::Drawn { per_mille, seed }).await
    }

    /// A proxy to `upstream` that loses the answer to the first try of every request.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn losing_first_answers(upstream: SocketAddr) -> Self {
        Self::by(upstream, Plan::FirstAnswersLost).await
    }

    async fn by(upstream: SocketAddr, plan: Plan) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = Mutex::new(upstream);
        let state = Arc::new(State { upstream, plan, attempts: AtomicU32::new(0), met: Default::default() });
        let shared = Arc::clone(&state);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                // A client that hangs up in the middle is no concern of ours.
                tokio::spawn(async move { drop(serve(client, &state).await) });
            }
        });
        Self { address, state, listening }
    }

    /// Leads to another server from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.state.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// How many attempts there were, and how many of them met each fault.
    #[must_use]
    pub fn tally(&self) -> (u32, Vec<(Fault, u32)>) {
        let met = Fault::ALL.into_iter().zip(&self.state.met);
        let met = met.map(|(fault, count)| (fault, count.load(Ordering::Relaxed)));
        (self.state.attempts.load(Ordering::Relaxed), met.collect())
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl State {
    fn fault(&self, request: &Request) -> Option<Fault> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let (per_mille, seed) = match self.plan {
            Plan::FirstAnswersLost => return (request.attempt() == "0").then_some(Fault::ResetAfter),
            Plan::Drawn { per_mille, seed } => (per_mille, seed),
        };
        let mut hasher = DefaultHasher::new();
        (seed, &request.body, request.attempt()).hash(&mut hasher);
        let drawn = hasher.finish();
        let place = usize::try_from(drawn / 1000 % Fault::ALL.len() as u64).unwrap();
        let met = drawn % 1000 < per_mille;
        met.then(|| {
            self.met[place].fetch_add(1, Ordering::Relaxed);
            let drawn = Fault::ALL[place];
            // A stream has no blank lines before it, and once begun no client can ask for it again.
            let is_too_late = drawn == Fault::ResetAfterBlankLines && request.is_streamed();
            if is_too_late { Fault::ResetAfter } else { drawn }
        })
    }

    /// A connection to the server; one that is being started again is waited for, as a balancer does.
    async fn connect(&self) -> std::io::Result<TcpStream> {
        let begun = Instant::now();
        loop {
            let upstream = *self.upstream.lock().unwrap_or_else(PoisonError::into_inner);
            match TcpStream::connect(upstream).await {
                Err(_) if begun.elapsed() < Duration::from_secs(5) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
    }
}

/// One request as it came.
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    async fn read(client: &mut TcpStream) -> std::io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let mut body = bytes.split_off(end);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let request = Self { head, body: Vec::new() };
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while body.len() < length {
            if client.read_buf(&mut body).await? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(Self { body, ..request }))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let of = |line: &'_ str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().find(|line| of(line)).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    fn is_streamed(&self) -> bool {
        let body = String::from_utf8_lossy(&self.body);
        body.contains("\"stream\":true") || body.contains("\"stream\": true")
    }

    fn attempt(&self) -> &str {
        self.header("x-stainless-retry-count").unwrap_or("0")
    }

    /// The request as the server gets it: a connection a request, so that the end of the answer is the end of both.
    fn forwarded(&self) -> Vec<u8> {
        let kept = self.head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let head = kept.collect::<Vec<_>>().join("\r\n") + "\r\nconnection: close\r\n\r\n";
        [head.as_bytes(), &self.body].concat()
    }
}

async fn serve(mut client: TcpStream, state: &State) -> std::io::Result<()> {
    let Some(request) = Request::read(&mut client).await? else { return Ok(()) };
    let fault = state.fault(&request);
    match fault {
        Some(Fault::ResetBefore) => return reset(client),
        Some(Fault::TooMany) => return refuse(client, "429 Too Many Requests", "rate_limit_exceeded").await,
        Some(Fault::Overloaded) => return refuse(client, "503 Service Unavailable", "server_is_overloaded").await,
        Some(Fault::SlowStart) => tokio::time::sleep(Duration::from_millis(400)).await,
        Some(Fault::ResetAfter | Fault::ResetAfterBlankLines) | None => {}
    }
    let mut server = state.connect().await?;
    server.write_all(&request.forwarded()).await?;
    match fault {
        Some(Fault::ResetAfter) => {
            // The server has begun; its answer is lost.
            tokio::time::sleep(Duration::from_millis(30)).await;
            reset(client)
        }
        Some(Fault::ResetAfterBlankLines) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            client.write_all(head.as_bytes()).await?;
            for _ in 0..3 {
                client.write_all(b"1\r\n\n\r\n").await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            reset(client)
        }
        Some(_) | None => {
            copy(&mut server, &mut client).await?;
            client.shutdown().await
        }
    }
}

/// Ends a connection with RST, as a machine does that has gone.
fn reset(client: TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()
}

async fn refuse(mut client: TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("{{\"error\":{{\"message\":\"injected\",\"type\":\"x\",\"param\":null,\"code\":\"{code}\"}}}}");
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after-ms: 50\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}
