//! How fast is each stage, beside its hand-written loop? A small workload, for watching changes;
//! `tidegate bench` measures the standard one.

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_benches::workload::{Size, payments};
use tidegate_benches::{baseline, stages};

fn windows(criterion: &mut Criterion) {
    let payments = payments(Size { customers: 1_000, terminals: 2_000, days: 40 });
    let groups = stages::window_groups(&payments, 1);
    let mut group = criterion.benchmark_group("windows");
    group.sample_size(10);
    group.bench_function("tidegate", |b| b.iter(|| stages::windows_stage(&groups, 1).unwrap()));
    group.bench_function("loop", |b| b.iter(|| baseline::windows(&payments)));
    group.finish();
}

fn gate(criterion: &mut Criterion) {
    let text = stages::lines(10);
    let mut group = criterion.benchmark_group("gate");
    group.sample_size(10);
    group.bench_function("decode", |b| b.iter(|| stages::decode_stage(&text)));
    group.bench_function("decode loop", |b| b.iter(|| baseline::decode_all(&text)));
    group.bench_function("gate", |b| b.iter(|| stages::gate_stage(&text).unwrap()));
    group.bench_function("gate loop", |b| b.iter(|| baseline::gate(&text)));
    group.finish();
}

criterion_group!(benches, windows, gate);
criterion_main!(benches);
