//! The benchmark's tables, with what is expected of us beside what we reach.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::times::{Times, milliseconds};
use super::contestant::Operation;

/// Everything that was measured.
pub struct Outcome {
    pub tables: Vec<Table>,
}

/// All contestants with one configuration: we first, then crun, then runc.
pub struct Table {
    pub name: &'static str,
    pub floor: Row,
    pub rows: Vec<Row>,
}

/// One contestant.
pub struct Row {
    name: String,
    times: [Times; 5],
    pub run_calls: u64,
    pub exec_calls: u64,
    /// KiB
    pub peak: u64,
}

/// A column: its title, its value, and the most of crun's (or, the last, of runc's) that we may take.
type Column = (&'static str, fn(&Row) -> f64, Option<f64>, Option<f64>);

const COLUMNS: [Column; 8] = [
    ("run ms", |row| row.median(0), Some(0.5), Some(0.15)),
    ("exec ms", |row| row.median(1), Some(0.5), None),
    ("create ms", |row| row.median(2), Some(1.0), None),
    ("start ms", |row| row.median(3), Some(1.0), None),
    ("delete ms", |row| row.median(4), Some(1.0), None),
    ("calls of run", |row| row.run_calls as f64, Some(0.5), None),
    ("calls of exec", |row| row.exec_calls as f64, None, None),
    ("peak KiB", |row| row.peak as f64, Some(1.0), None),
];

impl Row {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            times: Default::default(),
            run_calls: 0,
            exec_calls: 0,
            peak: 0,
        }
    }

    /// Notes what one turn took.
    pub fn note(&mut self, times: impl IntoIterator<Item = (Operation, Duration)>) {
        for (operation, time) in times {
            if let Some(all) = self.times.get_mut(operation as usize) {
                all.push(time);
            }
        }
    }

    fn median(&self, index: usize) -> f64 {
        self.times
            .get(index)
            .map_or(0.0, |times| milliseconds(times.median()))
    }

    fn json(&self) -> Value {
        let names = ["run", "exec", "create", "start", "delete"];
        let times = names.iter().zip(&self.times);
        let times: serde_json::Map<_, _> = times
            .filter(|(_, times)| times.count() > 0)
            .map(|(name, times)| ((*name).to_owned(), times.json()))
            .collect();
        json!({
            "name": self.name,
            "times": times,
            "run_system_calls": self.run_calls,
            "exec_system_calls": self.exec_calls,
            "run_peak_kib": self.peak,
        })
    }
}

impl Outcome {
    pub fn show(&self) {
        for table in &self.tables {
            table.show();
        }
    }

    pub fn json(&self) -> Value {
        let tables = self.tables.iter().map(|table| {
            let rows = [&table.floor].into_iter().chain(&table.rows);
            json!({
                "configuration": table.name,
                "contestants": rows.map(Row::json).collect::<Vec<_>>(),
                "expectations": table.expectations().map(|one| one.json()).collect::<Vec<_>>(),
            })
        });
        json!({"benchmark": "runtime", "tables": tables.collect::<Vec<_>>()})
    }
}

/// One thing that is expected of us.
struct Expectation {
    column: &'static str,
    peer: String,
    ratio: f64,
    most: f64,
}

impl Expectation {
    fn met(&self) -> bool {
        self.ratio <= self.most
    }

    fn json(&self) -> Value {
        json!({
            "what": self.column, "peer": self.peer, "ratio": self.ratio,
            "expected_at_most": self.most, "met": self.met(),
        })
    }
}

impl Table {
    fn show(&self) {
        let runs = self.rows.first().and_then(|row| row.times.first());
        println!(
            "\nA container that runs /bin/true, with {} configuration: medians of {} runs in turn",
            self.name,
            runs.map_or(0, Times::count)
        );
        let titles = COLUMNS.map(|(title, ..)| title);
        println!("| {:14} | {} |", "", titles.join(" | "));
        println!(
            "|----------------|{}|",
            titles
                .map(|title| format!("{:->1$}", ":", title.len() + 2))
                .join("|")
        );
        for row in [&self.floor].into_iter().chain(&self.rows) {
            println!("| {:14} | {} |", row.name, cells(row));
        }
        for one in self.expectations() {
            println!(
                "{:13} {:.2} of {}; expected is at most {:.2}{}",
                one.column,
                one.ratio,
                one.peer,
                one.most,
                if one.met() { "" } else { ": MISSED" }
            );
        }
    }

    fn expectations(&self) -> impl Iterator<Item = Expectation> {
        let [ours, crun, runc] = [0, 1, 2].map(|index| self.rows.get(index));
        let of = move |title, value: fn(&Row) -> f64, peer: Option<&Row>, most: Option<f64>| {
            Some(Expectation {
                column: title,
                peer: peer?.name.clone(),
                ratio: value(ours?) / value(peer?),
                most: most?,
            })
        };
        COLUMNS
            .into_iter()
            .flat_map(move |(title, value, of_crun, of_runc)| {
                [
                    of(title, value, crun, of_crun),
                    of(title, value, runc, of_runc),
                ]
                .into_iter()
                .flatten()
            })
    }
}

fn cells(row: &Row) -> String {
    COLUMNS
        .map(|(title, value, ..)| {
            let (value, width) = (value(row), title.len());
            match (value == 0.0, title.ends_with("ms")) {
                (true, _) => format!("{:width$}", ""),
                (_, true) => format!("{value:width$.2}"),
                _ => format!("{value:width$.0}"),
            }
        })
        .join(" | ")
}
