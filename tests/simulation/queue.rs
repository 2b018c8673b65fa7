//! A queue without threads: what runs next, and what is returned next, follows from the seed.

use std::ops::Range;
use std::sync::Arc;

use lbpayload::block::{AlignedBuf, Completion, Job, Queue, Sink, Source, read_exact_at};

use crate::case::Random;

type Act<T> = Box<dyn FnOnce() -> Completion<T>>;

pub struct SimulatedQueue<T> {
    random: Random,
    waiting: Vec<Act<T>>,
    ended: Vec<Completion<T>>,
}

impl<T: 'static> SimulatedQueue<T> {
    pub fn new(random: Random) -> Self {
        Self {
            random,
            waiting: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn add(&mut self, act: impl FnOnce() -> Completion<T> + 'static) {
        self.waiting.push(Box::new(act));
    }
}

impl<T: 'static> Queue<T> for SimulatedQueue<T> {
    fn read(
        &mut self,
        id: u64,
        source: &Arc<dyn Source>,
        mut buf: AlignedBuf,
        len: usize,
        offset: u64,
    ) {
        let source = Arc::clone(source);
        self.add(move || {
            let result = read_exact_at(&*source, &mut buf[..len], offset);
            Completion::Read { id, buf, result }
        });
    }

    fn write(&mut self, id: u64, sink: &Arc<dyn Sink>, buf: AlignedBuf, len: usize, offset: u64) {
        let sink = Arc::clone(sink);
        self.add(move || {
            let result = sink.write_all_at(&buf[..len], offset);
            Completion::Write { id, buf, result }
        });
    }

    fn write_shared(
        &mut self,
        id: u64,
        sink: &Arc<dyn Sink>,
        block: &Arc<AlignedBuf>,
        range: Range<usize>,
        offset: u64,
    ) {
        let (sink, block) = (Arc::clone(sink), Arc::clone(block));
        self.add(move || {
            let result = sink.write_all_at(&block[range], offset);
            Completion::WriteShared { id, result }
        });
    }

    fn run(&mut self, job: Job<T>) {
        self.add(move || Completion::Job(job()));
    }

    fn wait(&mut self) -> Option<Completion<T>> {
        loop {
            let acts = !self.waiting.is_empty();
            if acts && (self.ended.is_empty() || self.random.one_in(2)) {
                let next = self.random.below(self.waiting.len());
                let act = self.waiting.swap_remove(next);
                self.ended.push(act());
            } else if self.ended.is_empty() {
                return None;
            } else {
                let next = self.random.below(self.ended.len());
                return Some(self.ended.swap_remove(next));
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.ended.len()
    }
}
