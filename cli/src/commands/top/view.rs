//! The screen as it is drawn. On a narrow terminal the less important columns are left out.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::rates::ServedRow;
use super::sample::Depth;
use super::screen::Screen;
use crate::commands::ls::kind_name;
use crate::output::printable;

/// The widest column of names.
const NAME: u16 = 32;

pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen) {
    let queues = screen.queues().map_or(0, std::collections::BTreeMap::len);
    let has_error = screen.error.is_some();
    // Two thirds for services, unless the queues need less.
    let for_queues = u16::try_from(queues + 2).unwrap_or(u16::MAX);
    let for_queues = match queues {
        0 => 0,
        _ => for_queues.min(frame.area().height / 3),
    };
    let [head, error, services, queues, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(has_error)),
        Constraint::Min(0),
        Constraint::Length(for_queues),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(screen)), head);
    if let Some(text) = &screen.error {
        let style = tone(screen, Color::Red);
        frame.render_widget(Paragraph::new(printable(text)).style(style), error);
    }
    draw_services(frame, screen, services);
    draw_queues(frame, screen, queues);
    let keys = format!("q quit  s sort ({})  ↑↓ scroll", screen.order.as_str());
    frame.render_widget(Paragraph::new(keys).style(dim()), foot);
}

fn title(screen: &Screen) -> Line<'static> {
    let rows = screen.rows();
    let text = if screen.queues().is_none() {
        "asking who is there".to_owned()
    } else {
        let instances: usize = rows.iter().map(|row| row.instances).sum();
        let rate: f64 = rows.iter().filter_map(|row| row.rate).sum();
        format!(
            "{} served by {instances} instances, {} a second",
            rows.len(),
            number(rate)
        )
    };
    Line::from(vec![
        Span::styled("lepus top  ", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(text),
    ])
}

/// A column: its name, its width, the least width of the screen for it, and its cells.
type Column<T> = (&'static str, u16, u16, fn(&Screen, &T) -> Cell<'static>);

fn draw_services(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let columns: [Column<ServedRow>; 8] = [
        ("NAME", 0, 0, |_, row| Cell::new(printable(&row.name))),
        ("KIND", 7, 70, |_, row| Cell::new(kind_name(row.kind))),
        ("INST", 4, 60, |_, row| right(row.instances.to_string(), 4)),
        ("RATE/s", 8, 0, |_, row| right(rate(row.rate), 8)),
        ("P95", 9, 34, |_, row| {
            right(row.p95.map_or("-".to_owned(), |p95| p95.text()), 9)
        }),
        ("ERR/s", 7, 44, |screen, row| {
            let is_bad = row.error_rate.is_some_and(|rate| rate > 0.0);
            right(rate(row.error_rate), 7).style(if_bad(screen, is_bad))
        }),
        ("ERRORS", 7, 80, |_, row| right(row.errors.to_string(), 7)),
        ("BUSY", 5, 52, |_, row| right(row.in_flight.to_string(), 5)),
    ];
    let rows = screen.rows().iter().skip(screen.scrolled);
    draw_table(frame, screen, area, &columns, rows);
}

fn draw_queues(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let columns: [Column<(&String, &Depth)>; 4] = [
        ("QUEUE", 0, 0, |_, (name, _)| Cell::new(printable(name))),
        ("READY", 8, 0, |screen, (_, depth)| {
            let ready = depth
                .ready
                .map_or("no queue".to_owned(), |it| it.to_string());
            right(ready, 8).style(if_bad(screen, is_stuck(depth)))
        }),
        ("CONSUMERS", 9, 50, |screen, (_, depth)| {
            right(depth.consumers.to_string(), 9).style(if_bad(screen, is_stuck(depth)))
        }),
        ("DEAD", 8, 34, |screen, (_, depth)| {
            let dead = depth.dead.map_or("-".to_owned(), |it| it.to_string());
            let is_bad = depth.dead.is_some_and(|dead| dead > 0);
            right(dead, 8).style(if_bad(screen, is_bad))
        }),
    ];
    if let Some(queues) = screen.queues() {
        let rows: Vec<_> = queues.iter().collect();
        draw_table(frame, screen, area, &columns, rows.iter());
    }
}

/// Jobs wait, and nobody takes them.
fn is_stuck(depth: &Depth) -> bool {
    depth.ready.is_some_and(|ready| ready > 0) && depth.consumers == 0
}

fn draw_table<'a, T: 'a>(
    frame: &mut Frame<'_>,
    screen: &Screen,
    area: Rect,
    columns: &[Column<T>],
    rows: impl Iterator<Item = &'a T>,
) {
    let shown: Vec<&Column<T>> = columns
        .iter()
        .filter(|(_, _, least, _)| area.width >= *least)
        .collect();
    let head = shown.iter().map(|(name, width, ..)| match width {
        0 => Cell::new(*name),
        width => right((*name).to_owned(), *width),
    });
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::BOLD));
    let widths = shown.iter().map(|(_, width, ..)| match width {
        // The column of names has what is left.
        0 => Constraint::Max(NAME),
        width => Constraint::Length(*width),
    });
    let rows = rows.map(|row| Row::new(shown.iter().map(|(_, _, _, cell)| cell(screen, row))));
    // No more than fit.
    let rows = rows.take(usize::from(area.height));
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

fn right(text: String, width: u16) -> Cell<'static> {
    Cell::new(format!("{text:>width$}", width = usize::from(width)))
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), number)
}

/// A number with three digits, or as many as it has.
fn number(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{number:.2}"),
        ..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

fn tone(screen: &Screen, color: Color) -> Style {
    match screen.has_colors {
        true => Style::new().fg(color),
        false => Style::new(),
    }
}

fn if_bad(screen: &Screen, is_bad: bool) -> Style {
    match is_bad {
        true => tone(screen, Color::Red),
        false => Style::new(),
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use lepus::control::ServedKind;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::commands::top::sample::{Figures, Sample};

    fn sample(at: Instant, requests: u64, services: usize) -> Sample {
        let served = (0..services).map(|number| {
            let figures = Figures {
                kind: ServedKind::Service,
                requests,
                errors: requests / 10,
                in_flight: 2,
                latency: vec![requests],
            };
            ((format!("service-{number:02}"), "i".to_owned()), figures)
        });
        let depth = |ready, dead| Depth {
            ready,
            consumers: 0,
            dead,
        };
        let queues = [
            ("mails".to_owned(), depth(Some(12_345), Some(3))),
            ("none".to_owned(), depth(None, None)),
        ];
        Sample {
            at,
            served: served.collect(),
            queues: queues.into(),
        }
    }

    fn screen(services: usize) -> Screen {
        let mut screen = Screen::new(false);
        let start = Instant::now();
        screen.update(sample(start, 0, services));
        screen.update(sample(start + Duration::from_secs(2), 1000, services));
        screen
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
        };
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_figures_are_on_the_screen() {
        let lines = drawn(&mut screen(1), 100, 12);
        let screen = lines.join("\n");
        assert!(
            lines[0].contains("1 served by 1 instances, 500 a second"),
            "{screen}"
        );
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        let expected = [
            "service-00",
            "service",
            "1",
            "500",
            "<",
            "5.00",
            "ms",
            "50.0",
            "100",
            "2",
        ];
        assert_eq!(words, expected, "{screen}");
        assert!(
            screen.contains("mails") && screen.contains("12345"),
            "{screen}"
        );
        assert!(screen.contains("no queue"), "{screen}");
        assert!(lines[11].starts_with("q quit"), "{screen}");
    }

    #[test]
    fn every_size_is_drawn() {
        for width in [1, 5, 20, 33, 40, 80, 300] {
            for height in [1, 2, 3, 5, 10, 50] {
                let lines = drawn(&mut screen(30), width, height);
                if width >= 20 && height >= 10 {
                    let screen = lines.join("\n");
                    assert!(screen.contains("service-00"), "{width}x{height}\n{screen}");
                    assert!(screen.contains("500"), "{width}x{height}\n{screen}");
                }
            }
        }
    }

    #[test]
    fn it_scrolls_to_the_last_service_and_not_further() {
        let mut screen = screen(30);
        for _ in 0..100 {
            screen.on_key(ratatui::crossterm::event::KeyCode::Down.into());
        }
        let lines = drawn(&mut screen, 80, 20);
        assert!(lines[2].starts_with("service-29"), "{}", lines.join("\n"));
    }

    #[test]
    fn an_error_is_shown_and_the_figures_stay() {
        let mut screen = screen(1);
        screen.failed(lepus::Error::refused(403, "no access"));
        let lines = drawn(&mut screen, 80, 12).join("\n");
        assert!(
            lines.contains("403") && lines.contains("service-00"),
            "{lines}"
        );
    }
}
