//! Figures, and tables of them in Markdown.

/// Rows of cells below a head.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<H: ToString>(corner: &str, head: impl IntoIterator<Item = H>) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(corner, head.into_iter().map(|cell| cell.to_string()));
        table
    }

    pub(crate) fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(std::iter::once(name.to_owned()).chain(cells).collect());
    }

    pub(crate) fn print(&self, title: &str) {
        println!("{title}\n");
        for (nth, row) in self.rows.iter().enumerate() {
            println!("| {} |", row.join(" | "));
            if nth == 0 {
                println!("|{}", "---|".repeat(row.len()));
            }
        }
        println!();
    }
}

/// The figures of all rounds, in order of size.
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    /// None if there is none, or one that is no number.
    pub(crate) fn new(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        (!figures.is_empty() && figures.iter().all(|figure| figure.is_finite()))
            .then_some(Self(figures))
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() % 2 {
            1 => self.0[middle],
            _ => f64::midpoint(self.0[middle - 1], self.0[middle]),
        }
    }

    /// From the lowest to the highest, as written by `show`.
    pub(crate) fn spread(&self, show: fn(f64) -> String) -> String {
        format!("{}-{}", show(self.0[0]), show(self.0[self.0.len() - 1]))
    }
}

/// Three digits or so, as 840, 8.40k, 84.0k, 8.40M.
pub(crate) fn short(figure: f64) -> String {
    match figure {
        1e6.. => format!("{:.2}M", figure / 1e6),
        1e5.. => format!("{:.0}k", figure / 1e3),
        1e3.. => format!("{:.1}k", figure / 1e3),
        100.0.. => format!("{figure:.0}"),
        _ => format!("{figure:.1}"),
    }
}

pub(crate) fn hundredths(figure: f64) -> String {
    format!("{figure:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        let median =
            |figures: &[f64]| Rounds::new(figures.iter().copied()).map(|rounds| rounds.median());
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn figures_are_short() {
        let shown = [9.87, 123.4, 12_345.0, 999_400.0, 1_234_567.0].map(short);
        assert_eq!(shown, ["9.9", "123", "12.3k", "999k", "1.23M"]);
    }
}
