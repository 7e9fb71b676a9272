//! JSON, read: strict, and only as much as the command line prints.

/// A value. Numbers are those of indices and sizes; what is below zero or has a fraction is apart.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(u64),
    Real(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The whole of `text` as one value.
    pub(crate) fn parse(text: &str) -> Self {
        let mut rest = text.trim_end();
        let value = value(&mut rest);
        assert_eq!(rest, "", "something follows the value");
        value
    }

    /// One value a line.
    pub(crate) fn lines(text: &str) -> Vec<Self> {
        text.lines().map(Self::parse).collect()
    }

    pub(crate) fn get(&self, key: &str) -> &Self {
        let Self::Object(members) = self else {
            panic!("no object: {self:?}");
        };
        let mut found = members.iter().filter(|(name, _)| name == key);
        let (_, value) = found
            .next()
            .unwrap_or_else(|| panic!("no {key} in {self:?}"));
        assert!(found.next().is_none(), "{key} twice in {self:?}");
        value
    }

    /// The same object without one key.
    pub(crate) fn without(&self, key: &str) -> Self {
        self.get(key);
        let Self::Object(members) = self else {
            unreachable!();
        };
        let left = members.iter().filter(|(name, _)| name != key);
        Self::Object(left.cloned().collect())
    }

    pub(crate) fn number(&self, key: &str) -> u64 {
        match self.get(key) {
            Self::Number(number) => *number,
            other => panic!("{key} is {other:?}"),
        }
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Self::Text(text) => text,
            other => panic!("{key} is {other:?}"),
        }
    }

    pub(crate) fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            other => panic!("no list: {other:?}"),
        }
    }
}

/// Takes `token` off the front, behind white space.
fn eat(rest: &mut &str, token: &str) -> bool {
    let stripped = rest.trim_start().strip_prefix(token);
    *rest = stripped.unwrap_or(rest);
    stripped.is_some()
}

fn value(rest: &mut &str) -> Json {
    if eat(rest, "null") {
        return Json::Null;
    }
    for bool in [true, false] {
        if eat(rest, &bool.to_string()) {
            return Json::Bool(bool);
        }
    }
    if eat(rest, "[") {
        let mut list = Vec::new();
        while !eat(rest, "]") {
            assert!(list.is_empty() || eat(rest, ","), "no comma before {rest}");
            list.push(value(rest));
        }
        return Json::List(list);
    }
    if eat(rest, "{") {
        let mut members = Vec::new();
        while !eat(rest, "}") {
            assert!(
                members.is_empty() || eat(rest, ","),
                "no comma before {rest}"
            );
            assert!(eat(rest, "\""), "no key: {rest}");
            let key = string(rest);
            assert!(eat(rest, ":"), "no colon before {rest}");
            members.push((key, value(rest)));
        }
        return Json::Object(members);
    }
    if eat(rest, "\"") {
        return Json::Text(string(rest));
    }
    let trimmed = rest.trim_start();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && !"-.".contains(c));
    let (digits, after) = trimmed.split_at(end.unwrap_or(trimmed.len()));
    *rest = after;
    let real = |_| digits.parse().map(Json::Real);
    let number = digits.parse().map(Json::Number).or_else(real);
    number.unwrap_or_else(|_| panic!("no value: {trimmed}"))
}

/// The rest of a string whose quote was eaten.
fn string(rest: &mut &str) -> String {
    let mut text = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next().expect("a string ends") {
            '"' => break,
            '\\' => match chars.next().expect("an escape ends") {
                c @ ('"' | '\\' | '/') => text.push(c),
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'u' => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let number = u32::from_str_radix(&digits, 16).unwrap();
                    text.push(char::from_u32(number).unwrap());
                }
                other => panic!("\\{other} is no escape"),
            },
            c => {
                assert!(!c.is_control(), "a bare control character");
                text.push(c);
            }
        }
    }
    *rest = chars.as_str();
    text
}
