// SPDX-License-Identifier: LGPL-2.1-or-later
//! The fault matrix: whatever dies, and whenever, nothing is left. docs/faults.md says how it is run.

mod agent;
mod away;
#[path = "../bed/mod.rs"]
mod bed;
mod cell;
mod check;
#[path = "../../../tests/support/definition.rs"]
mod definition;
mod fault;
mod keep;
mod log;
#[path = "../../../tests/support/monitor.rs"]
mod monitor;
mod operation;
mod proxy;
mod stand;
mod table;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cell::{At, Cell, Lessons, Outcome};
use fault::{FAULTS, Fault};
use keep::Kept;
use operation::{COURSES, Course, OPERATIONS, Operation};
use stand::Stand;
use table::Table;

type Result<T> = std::result::Result<T, String>;

/// As much of it as `make test` waits for.
const SAMPLE: usize = 8;
const SAMPLE_TIME: Duration = Duration::from_secs(45);
/// The same cells every day: what fails in it is the fault of what changed.
const SAMPLE_SEED: u64 = 1;

/// The tests have one machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn a_sample_of_the_fault_matrix() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut matrix = Matrix::new(SAMPLE_SEED);
    matrix.draw(SAMPLE, SAMPLE_TIME);
    matrix.must_have_passed();
}

/// By a user of a group that may talk to the system daemon, whose QEMU is yet another user: as nova-compute runs.
#[test]
fn a_sample_as_an_ordinary_user() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut matrix = Matrix::new(SAMPLE_SEED);
    matrix.user = Some("daemon");
    matrix.draw(SAMPLE, SAMPLE_TIME);
    matrix.must_have_passed();
}

/// Few cells, and what is at stake in them is all that the guest wrote since.
#[test]
fn what_libvirtd_did_not_live_to_note() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut matrix = Matrix::new(SAMPLE_SEED);
    let at = |point: &str| At::Point(point.to_owned());
    let unseen = [Fault::SnapshotUnseen, Fault::SnapshotUnseenByAll, Fault::PivotUnseen];
    matrix.all_of(Course::Forward, &unseen, &[]);
    matrix.all_of(Course::Astray, &[Fault::AgentKilled], &[at("after Return")]);
    matrix.all_of(Course::Astray, &[Fault::QemuKilled], &[at("after StartReturn")]);
    matrix.must_have_passed();
}

/// The definition of a domain that is gone, and one that was made meanwhile.
#[test]
fn a_definition_that_is_away_comes_back() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stand = Stand::up(None);
    for point in ["after Undefine", "after StartCopy(1)"] {
        println!("all gone {point}");
        away::all_gone(&mut stand, point).unwrap();
    }
    for (point, succeeds) in [
        ("before Undefine", false),
        ("before StartCopy(0)", false),
        ("before Redefine", true),
    ] {
        println!("defined by another {point}");
        away::defined_by_another(&mut stand, point, succeeds).unwrap();
    }
}

/// The model is held against the world: a step that only says that it did something is caught.
#[test]
fn a_step_that_does_nothing_is_caught() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut stand = Stand::up(None);
    for (operation, step) in [
        (OPERATIONS[0], "MakeImage(0)"),
        (OPERATIONS[2], "MakeOverlay(1)"),
        (OPERATIONS[3], "SaveDefinition"),
        (OPERATIONS[4], "TakeSnapshot"),
    ] {
        let number = stand.number();
        let names = operation.destinations(stand::Place::Bed, number);
        let destinations: Vec<_> = names.iter().map(|name| stand.bed.path(name)).collect();
        let words = operation.words(&destinations, None);
        let mut command = stand
            .bed
            .livedisk(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let output = command
            .env("LIVEDISK_SKIP", step)
            .env_remove("LIVEDISK_UNEXPLAINED")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{operation}: {said}");
        let caught = check::explained(said.lines()).unwrap_err();
        assert!(caught.contains(&format!("step {step}")), "{operation}: {caught}");
        check::idle(&stand).unwrap();
    }
}

#[test]
#[ignore = "takes hours: make faults"]
fn the_fault_matrix() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The day's.
    let mut matrix = Matrix::new(since.as_secs() / 86400);
    let most = number("LIVEDISK_FAULTS").map_or(usize::MAX, |count| usize::try_from(count).unwrap());
    let time = number("LIVEDISK_FAULTS_MINUTES").map_or(Duration::MAX, |minutes| Duration::from_secs(60 * minutes));
    matrix.all(most, time, std::env::var("LIVEDISK_FAULTS_PAGE").ok().as_deref());
    matrix.must_have_passed();
}

struct Matrix {
    seed: u64,
    /// Parts of the wanted cells' names: an operation, a course, a moment, a fault. All cells where none is named.
    wanted: Vec<String>,
    random: fastrand::Rng,
    /// Who runs the command; root where none is named.
    user: Option<&'static str>,
    stand: Option<Stand>,
    lessons: Lessons,
    table: Table,
    kept: Kept,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

impl Matrix {
    fn new(seed: u64) -> Self {
        let seed = number("LIVEDISK_FAULTS_SEED").unwrap_or(seed);
        println!("LIVEDISK_FAULTS_SEED={seed}");
        let wanted = std::env::var("LIVEDISK_FAULTS_CELL").unwrap_or_default();
        Self {
            seed,
            wanted: wanted
                .split(", ")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
            random: fastrand::Rng::with_seed(seed),
            user: None,
            stand: None,
            lessons: Lessons::default(),
            table: Table::default(),
            kept: Kept::open(std::env::var_os("LIVEDISK_FAULTS_KEEP").map(PathBuf::from)),
        }
    }

    fn must_have_passed(&self) {
        println!("{}", self.table.summary());
        assert!(self.table.has_any(), "no cell was run");
        assert!(self.table.failed.is_empty(), "{}", self.table.failed.join("\n"));
    }

    fn stand(&mut self) -> &mut Stand {
        self.stand.get_or_insert_with(|| Stand::up(self.user))
    }

    /// The cells of one operation with one fault.
    fn cells(&mut self, operation: Operation, course: Course, fault: Fault) -> Result<Vec<Cell>> {
        if fault.left_out(operation).is_some() || !operation.has(course) {
            return Ok(Vec::new());
        }
        let place = fault.place(operation);
        let lesson = format!("{operation}, {course}, {place:?}");
        let points = match self.kept.points(&lesson) {
            Some(points) => points.clone(),
            None => {
                self.stand();
                let Some(stand) = &mut self.stand else {
                    return Ok(Vec::new());
                };
                let points = self.lessons.points(stand, operation, course, place)?.points;
                self.kept.learned(&lesson, &points);
                points
            }
        };
        let cell = |at| Cell {
            operation,
            course,
            at,
            fault,
        };
        let mut cells = Vec::new();
        for (index, point) in points.iter().enumerate() {
            if let Some(only) = fault.only_at(operation) {
                if only == point {
                    cells.push(cell(At::Point(point.clone())));
                }
                continue;
            }
            if fault.left_out_at(operation, &points[..index]).is_some() {
                continue;
            }
            cells.push(cell(At::Point(point.clone())));
            // During the step it may already be past it.
            if point.starts_with("before ") && fault.left_out_during(operation, &points[..=index]).is_none() {
                cells.push(cell(At::During(point.clone())));
            }
        }
        cells.retain(|cell| self.is_wanted(&cell.to_string()));
        Ok(cells)
    }

    fn run(&mut self, cell: &Cell) {
        let began = Instant::now();
        // Its own, so that it has the same delay when it is repeated alone.
        let mut hasher = DefaultHasher::new();
        (self.seed, cell.to_string()).hash(&mut hasher);
        let mut random = fastrand::Rng::with_seed(hasher.finish());
        self.stand();
        let Some(stand) = &mut self.stand else { return };
        let outcome = cell.run(stand, &mut self.lessons, &mut random);
        let took = began.elapsed().as_secs_f64();
        match &outcome {
            Outcome::Passed(notes) => println!("passed {took:5.1} s  {cell}  {notes:?}"),
            Outcome::NotReached => println!("not reached {took:5.1} s  {cell}"),
            Outcome::Failed(wrong) => {
                println!(
                    "FAILED {took:5.1} s  {cell}  (seed {})\n    {}",
                    self.seed,
                    wrong.join("\n    ")
                );
                // Whatever it left, the next cell begins afresh.
                self.stand = None;
            }
        }
        self.table.add(cell, &outcome);
        self.kept.came_out(&cell.to_string(), &outcome);
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.wanted
            .iter()
            .all(|wanted| name.split(", ").any(|part| part == wanted))
    }

    fn triples(&self) -> Vec<(Operation, Course, Fault)> {
        let operations = OPERATIONS.into_iter();
        let pairs = operations.flat_map(|operation| COURSES.map(|course| (operation, course)));
        let all = pairs.flat_map(|(operation, course)| FAULTS.map(|fault| (operation, course, fault)));
        let all = all.filter(|(operation, _, fault)| self.user.is_none() || !fault.takes_root(*operation));
        let name = |(operation, course, fault)| format!("{operation}, {course}, {fault}");
        let names: Vec<_> = all.clone().map(name).collect();
        // What names no operation, course or fault is a moment, which only a run of the operation knows.
        let moment = |part: &str| !names.iter().any(|name| name.split(", ").any(|known| known == part));
        let moments: Vec<_> = self.wanted.iter().filter(|part| moment(part)).collect();
        let is_wanted = |name: &String| {
            let mut parts = self.wanted.iter().filter(|part| !moments.contains(part));
            parts.all(|wanted| name.split(", ").any(|part| part == wanted))
        };
        all.zip(&names)
            .filter(|(_, name)| is_wanted(name))
            .map(|(triple, _)| triple)
            .collect()
    }

    /// So many, spread over operations and faults; it learns no more than it needs.
    fn draw(&mut self, count: usize, time: Duration) {
        self.stand();
        let began = Instant::now();
        let mut triples = self.triples();
        self.random.shuffle(&mut triples);
        let mut run = 0;
        // Of some there may be no cell.
        let most = count.saturating_add(triples.len());
        for (operation, course, fault) in triples.into_iter().cycle().take(most) {
            if run >= count || run > 0 && began.elapsed() > time {
                break;
            }
            let cells = self.cells_or_failure(operation, course, fault);
            if let Some(cell) = self.random.choice(&cells) {
                self.run(cell);
                run += 1;
            }
        }
    }

    /// All cells of this course with these faults, at these moments alone where some are named.
    fn all_of(&mut self, course: Course, faults: &[Fault], moments: &[At]) {
        for (operation, of, fault) in self.triples() {
            if of == course && faults.contains(&fault) {
                let mut cells = self.cells_or_failure(operation, course, fault);
                cells.retain(|cell| moments.is_empty() || moments.contains(&cell.at));
                cells.iter().for_each(|cell| self.run(cell));
            }
        }
    }

    /// All of them, or as many as these allow. What was run at any time is spread evenly over operations and faults. The
    /// page is kept true meanwhile.
    fn all(&mut self, most: usize, time: Duration, page: Option<&str>) {
        let began = Instant::now();
        let mut groups = Vec::new();
        for (operation, course, fault) in self.triples() {
            let mut cells = self.cells_or_failure(operation, course, fault);
            self.random.shuffle(&mut cells);
            cells.iter().for_each(|cell| self.table.announce(cell));
            groups.push(cells);
        }
        println!("{} cells", groups.iter().map(Vec::len).sum::<usize>());
        self.random.shuffle(&mut groups);
        let rounds = groups.iter().map(Vec::len).max().unwrap_or(0);
        let cells = (0..rounds).flat_map(|round| groups.iter().filter_map(move |cells| cells.get(round)));
        let (known, new): (Vec<_>, Vec<_>) = cells.partition(|cell| self.kept.outcome(&cell.to_string()).is_some());
        for cell in known {
            if let Some(outcome) = self.kept.outcome(&cell.to_string()) {
                self.table.add(cell, outcome);
            }
        }
        for cell in new.into_iter().take(most) {
            if began.elapsed() > time {
                break;
            }
            self.run(cell);
            if let Some(page) = page {
                std::fs::write(page, self.table.page(self.seed, self.kept.rerun())).unwrap();
            }
        }
    }

    fn cells_or_failure(&mut self, operation: Operation, course: Course, fault: Fault) -> Vec<Cell> {
        self.cells(operation, course, fault).unwrap_or_else(|error| {
            println!("FAILED  {error}");
            self.table.failed.push(error);
            self.stand = None;
            Vec::new()
        })
    }
}
