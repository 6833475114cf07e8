//! A broker in the test's own process, with every fault that a real one has shown.
//!
//! In:    engines of several bridges; faults that a test switches on and off.
//! Out:   what each published, to everybody who is connected, in one order.
//! Never: touches a network; loses or repeats anything that it was not told to.
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringhall::bridge::envelope::{self, Body};
use ringhall::bridge::{Delivery, Place};
use ringhall::broker::{BrokerError, Engine, GivenUp, Inlet, Lane, Later, Parcel, Session};
use ringhall::id::RoomKey;
use ringhall::room::epoch::Epochs;
use tokio::sync::Notify;

/// Pause before an envelope is offered again to an inlet that had no room for it.
const OFFER_AGAIN: Duration = Duration::from_millis(1);

/// What is wrong with the broker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Nobody can connect.
    pub refuses: bool,
    /// What is published is neither taken nor refused.
    pub hangs: bool,
    /// What is published is taken and delivered, and never confirmed.
    pub mute: bool,
    /// Probes alone do not come back.
    pub silent: bool,
    /// What is published in partitions is confirmed and not delivered.
    pub loses: bool,
    /// Everything is delivered twice.
    pub repeats: bool,
    /// What is published is refused.
    pub rejects: bool,
    /// What holds this is refused, and all that is published with it.
    pub poison: Option<&'static str>,
    /// Longer envelopes are given up, and the rest is taken.
    pub longest: Option<usize>,
}

impl Faults {
    fn fits(&self, parcel: &Parcel) -> bool {
        self.longest.is_none_or(|longest| parcel.envelope.len() <= longest)
    }
}

/// One connection.
struct Line {
    number: u64,
    inlet: Arc<dyn Inlet>,
    /// Nobody hears it, but itself.
    is_mute: bool,
}

#[derive(Default)]
struct State {
    faults: Faults,
    lines: Vec<Line>,
    /// The logs, and what their places are called.
    logs: HashMap<usize, Vec<Vec<u8>>>,
    epoch: u64,
    connections: u64,
}

/// The broker.
#[derive(Clone, Default)]
pub struct Loopback {
    state: Arc<Mutex<State>>,
    /// Something was written to a log, or a connection was cut.
    news: Arc<Notify>,
    published: Arc<AtomicU64>,
}

impl Loopback {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is wrong.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.lock().lines.clear();
        self.news.notify_waiters();
    }

    /// Comes back empty: all logs are gone, and new ones have another name.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.logs.clear();
        state.epoch += 1;
    }

    /// From now on nobody hears a connection but itself; its number.
    pub fn mute_line(&self, index: usize) -> u64 {
        let line = &mut self.lock().lines[index];
        line.is_mute = true;
        line.number
    }

    /// Everybody hears it again.
    pub fn unmute_line(&self, number: u64) {
        for line in self.lock().lines.iter_mut().filter(|line| line.number == number) {
            line.is_mute = false;
        }
    }

    /// Connections that were ever made.
    pub fn connections(&self) -> u64 {
        self.lock().connections
    }

    /// Envelopes that were published, control lane and all.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Publishes as a stranger would.
    pub fn inject(&self, lane: Lane, envelope: &[u8]) {
        for line in &self.lock().lines {
            line.inlet.receive(lane, envelope);
        }
    }

    /// An engine of one box.
    pub fn engine(&self, delivery: Delivery) -> Box<dyn Engine> {
        let positions = Rc::new(RefCell::new(None));
        Box::new(LoopbackEngine { broker: self.clone(), delivery, positions })
    }
}

/// How far a box has read each log, and in which life of the broker.
type Positions = Rc<RefCell<Option<(u64, HashMap<usize, usize>)>>>;

struct LoopbackEngine {
    broker: Loopback,
    delivery: Delivery,
    positions: Positions,
}

impl Engine for LoopbackEngine {
    fn kind(&self) -> &'static str {
        "loopback"
    }

    fn connect<'a>(
        &'a self,
        inlet: Arc<dyn Inlet>,
    ) -> Later<'a, Result<Box<dyn Session>, BrokerError>> {
        Box::pin(async move {
            let mut state = self.broker.lock();
            if state.faults.refuses {
                let text = "nobody listens at loopback://ann:opensesame@nowhere".to_owned();
                return Err(BrokerError(text));
            }
            state.connections += 1;
            let number = state.connections;
            state.lines.push(Line { number, inlet: inlet.clone(), is_mute: false });
            if self.delivery == Delivery::Ordered {
                let mut positions = self.positions.borrow_mut();
                let (epoch, logs) = (state.epoch, &state.logs);
                let ends = || logs.iter().map(|(at, log)| (*at, log.len())).collect();
                match &mut *positions {
                    None => *positions = Some((epoch, ends())),
                    Some((read, _)) if *read == epoch => {}
                    // The logs are other ones: from their beginning.
                    Some(other) => *other = (epoch, HashMap::new()),
                }
            }
            drop(state);
            let (broker, positions) = (self.broker.clone(), self.positions.clone());
            let reader = (self.delivery == Delivery::Ordered).then(|| {
                let broker = broker.clone();
                tokio::task::spawn_local(
                    async move { broker.read(&*inlet, &positions, number).await },
                )
            });
            Ok(Box::new(LoopbackSession { broker, number, reader }) as Box<dyn Session>)
        })
    }
}

impl Loopback {
    /// Hands the logs to an inlet, in order, as long as its connection lasts.
    async fn read(&self, inlet: &dyn Inlet, positions: &Positions, number: u64) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            while let Some((partition, at, epoch, envelope)) = self.next(positions, number) {
                let place = Place { epoch: name(epoch), offset: at as u64 + 1 };
                if !inlet.receive_placed(partition, place, &envelope) {
                    tokio::time::sleep(OFFER_AGAIN).await;
                    continue;
                }
                if let Some((_, read)) = &mut *positions.borrow_mut() {
                    read.insert(partition, at + 1);
                }
            }
            if !self.lock().lines.iter().any(|line| line.number == number) {
                return;
            }
            news.await;
        }
    }

    fn next(&self, positions: &Positions, number: u64) -> Option<(usize, usize, u64, Vec<u8>)> {
        let (state, positions) = (self.lock(), positions.borrow());
        state.lines.iter().find(|line| line.number == number)?;
        let (epoch, read) = positions.as_ref()?;
        state.logs.iter().find_map(|(partition, log)| {
            let at = read.get(partition).copied().unwrap_or(0);
            Some((*partition, at, *epoch, log.get(at)?.clone()))
        })
    }
}

/// The name of the logs' numbering.
fn name(epoch: u64) -> ringhall::room::epoch::Epoch {
    Epochs::new(epoch, 0).next_epoch()
}

struct LoopbackSession {
    broker: Loopback,
    number: u64,
    reader: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for LoopbackSession {
    fn drop(&mut self) {
        let number = self.number;
        self.broker.lock().lines.retain(|line| line.number != number);
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl LoopbackSession {
    /// Delivers what is published, as far as the broker is well.
    fn carry(&self, parcels: &[Parcel]) -> Result<Faults, BrokerError> {
        let mut state = self.broker.lock();
        let faults = state.faults;
        let holds = |parcel: &Parcel, text: &str| {
            parcel.envelope.windows(text.len()).any(|part| part == text.as_bytes())
        };
        let is_poison =
            faults.poison.is_some_and(|text| parcels.iter().any(|one| holds(one, text)));
        if faults.rejects || is_poison {
            return Err(BrokerError("the broker refuses".to_owned()));
        }
        if !faults.hangs {
            for parcel in parcels.iter().filter(|parcel| faults.fits(parcel)) {
                self.take(parcel, faults, &mut state);
            }
        }
        Ok(faults)
    }

    fn take(&self, parcel: &Parcel, faults: Faults, state: &mut State) {
        self.broker.published.fetch_add(1, Ordering::Relaxed);
        let times = if faults.repeats { 2 } else { 1 };
        match parcel.lane {
            Lane::Partition(_) if faults.loses => {}
            Lane::Partition(partition) if self.reader.is_some() => {
                let log = state.logs.entry(partition).or_default();
                log.extend((0..times).map(|_| parcel.envelope.to_vec()));
            }
            Lane::Control if faults.silent && is_probe(&parcel.envelope) => {}
            lane => {
                let own = self.number;
                let is_mute = state.lines.iter().any(|line| line.number == own && line.is_mute);
                let hears = |line: &&Line| line.number == own || !is_mute;
                for line in (0..times).flat_map(|_| state.lines.iter().filter(hears)) {
                    line.inlet.receive(lane, &parcel.envelope);
                }
            }
        }
    }
}

fn is_probe(bytes: &[u8]) -> bool {
    envelope::read(bytes).is_ok_and(|envelope| envelope.body == Body::Probe)
}

impl Session for LoopbackSession {
    fn publish<'a>(&'a self, parcels: &'a [Parcel]) -> Later<'a, Result<GivenUp, BrokerError>> {
        Box::pin(async move {
            let faults = self.carry(parcels)?;
            self.broker.news.notify_waiters();
            if faults.hangs || faults.mute {
                std::future::pending::<()>().await;
            }
            let each = parcels.iter().enumerate();
            Ok(each.filter(|(_, parcel)| !faults.fits(parcel)).map(|(index, _)| index).collect())
        })
    }

    fn place<'a>(&'a self, room: &'a RoomKey) -> Later<'a, Result<Place, BrokerError>> {
        Box::pin(async move {
            let state = self.broker.lock();
            let log = state.logs.get(&envelope::partition(&room.name));
            let offset = log.map_or(0, |log| log.len() as u64);
            Ok(Place { epoch: name(state.epoch), offset })
        })
    }

    fn lost(&self) -> Later<'_, BrokerError> {
        Box::pin(async move {
            loop {
                let news = self.broker.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if !self.broker.lock().lines.iter().any(|line| line.number == self.number) {
                    return BrokerError("the connection was cut".to_owned());
                }
                news.await;
            }
        })
    }
}
