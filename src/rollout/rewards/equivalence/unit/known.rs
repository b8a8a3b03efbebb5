//! The units and currencies that are known, with their sizes.

/// A unit that is known: its names (singular), what it measures, and its size in the base of that, as a fraction.
pub(super) struct Known {
    pub(super) names: &'static [&'static str],
    pub(super) base: &'static str,
    pub(super) size: (i64, i64),
}

const fn known(names: &'static [&'static str], base: &'static str, size: (i64, i64)) -> Known {
    Known { names, base, size }
}

/// Exact sizes (BIPM's SI Brochure; the international yard and pound).
const KNOWN: [Known; 72] = [
    known(&["m", "meter", "米", "公尺"], "m", (1, 1)),
    known(&["cm", "centimeter", "厘米", "公分"], "m", (1, 100)),
    known(&["mm", "millimeter", "毫米"], "m", (1, 1000)),
    known(&["dm", "decimeter", "分米"], "m", (1, 10)),
    known(&["km", "kilometer", "公里", "千米"], "m", (1000, 1)),
    known(&["μm", "um", "micrometer", "micron"], "m", (1, 1_000_000)),
    known(&["nm", "nanometer"], "m", (1, 1_000_000_000)),
    known(&["in", "inch", "inche"], "m", (254, 10_000)),
    known(&["ft", "foot", "feet"], "m", (3048, 10_000)),
    known(&["yd", "yard"], "m", (9144, 10_000)),
    known(&["mi", "mile", "英里"], "m", (1_609_344, 1000)),
    known(&["g", "gram", "gramme", "克"], "g", (1, 1)),
    known(&["kg", "kilogram", "kilo", "千克", "公斤"], "g", (1000, 1)),
    known(&["mg", "milligram", "毫克"], "g", (1, 1000)),
    known(&["t", "tonne", "吨"], "g", (1_000_000, 1)),
    known(&["lb"], "g", (45_359_237, 100_000)),
    known(&["oz", "ounce"], "g", (28_349_523_125, 1_000_000_000)),
    known(&["s", "sec", "second", "秒"], "s", (1, 1)),
    known(&["ms", "millisecond", "毫秒"], "s", (1, 1000)),
    known(&["min", "minute", "分钟"], "s", (60, 1)),
    known(&["h", "hr", "hour", "小时"], "s", (3600, 1)),
    known(&["day", "天"], "s", (86_400, 1)),
    known(&["week", "wk", "周"], "s", (604_800, 1)),
    known(&["month", "个月"], "month", (1, 1)),
    known(&["year", "yr", "年"], "month", (12, 1)),
    known(&["year-old", "岁"], "month", (12, 1)),
    known(&["l", "liter", "升"], "l", (1, 1)),
    known(&["ml", "milliliter", "毫升"], "l", (1, 1000)),
    known(&["cl", "centiliter"], "l", (1, 100)),
    known(&["dl", "deciliter"], "l", (1, 10)),
    known(&["gal", "gallon"], "gallon", (1, 1)),
    known(&["w", "watt"], "w", (1, 1)),
    known(&["kw", "kilowatt"], "w", (1000, 1)),
    known(&["mw", "megawatt"], "w", (1_000_000, 1)),
    known(&["kwh", "kilowatt-hour"], "kwh", (1, 1)),
    known(&["v", "volt"], "v", (1, 1)),
    known(&["kv", "kilovolt"], "v", (1000, 1)),
    known(&["a", "amp", "ampere"], "a", (1, 1)),
    known(&["ma", "milliampere", "milliamp"], "a", (1, 1000)),
    known(&["ohm", "ω"], "ohm", (1, 1)),
    known(&["hz", "hertz"], "hz", (1, 1)),
    known(&["khz", "kilohertz"], "hz", (1000, 1)),
    known(&["mhz", "megahertz"], "hz", (1_000_000, 1)),
    known(&["ghz", "gigahertz"], "hz", (1_000_000_000, 1)),
    known(&["j", "joule"], "j", (1, 1)),
    known(&["kj", "kilojoule"], "j", (1000, 1)),
    known(&["n", "newton"], "n", (1, 1)),
    known(&["pa", "pascal"], "pa", (1, 1)),
    known(&["kpa", "kilopascal"], "pa", (1000, 1)),
    known(&["cal", "calorie"], "cal", (1, 1)),
    known(&["kcal", "kilocalorie"], "cal", (1000, 1)),
    known(&["b", "byte"], "byte", (1, 1)),
    known(&["kb", "kilobyte"], "byte", (1000, 1)),
    known(&["mb", "megabyte"], "byte", (1_000_000, 1)),
    known(&["gb", "gigabyte"], "byte", (1_000_000_000, 1)),
    known(&["tb", "terabyte"], "byte", (1_000_000_000_000, 1)),
    known(&["mmhg"], "mmhg", (1, 1)),
    known(&["rpm"], "rpm", (1, 1)),
    known(&["bpm", "beat/min"], "bpm", (1, 1)),
    known(&["mbps", "megabit/s", "mbit/s"], "bit/s", (1_000_000, 1)),
    known(&["kbps", "kilobit/s", "kbit/s"], "bit/s", (1_000, 1)),
    known(&["gbps", "gigabit/s", "gbit/s"], "bit/s", (1_000_000_000, 1)),
    known(&["mph"], "m/s", (44_704, 100_000)),
    known(&["kph", "kmh", "kmph"], "m/s", (1000, 3600)),
    known(&["degc", "celsius", "centigrade", "摄氏度"], "degc", (1, 1)),
    known(&["degf", "fahrenheit", "华氏度"], "degf", (1, 1)),
    known(&["deg", "degree", "度"], "deg", (1, 1)),
    known(&["rad", "radian"], "rad", (1, 1)),
    known(&["mol", "mole"], "mol", (1, 1)),
    known(&["db", "decibel"], "db", (1, 1)),
    known(&["px", "pixel"], "px", (1, 1)),
    known(&["unit"], "unit", (1, 1)),
];
/// Money: signs and codes (lower case), its name here, its size.
pub(super) const MONEY: [Known; 20] = [
    known(&["$", "dollar", "buck"], "dollar", (1, 1)),
    known(&["¢", "cent"], "dollar", (1, 100)),
    known(&["usd", "us$", "us dollar"], "usd", (1, 1)),
    known(&["aud", "a$", "au$"], "aud", (1, 1)),
    known(&["cad", "c$", "ca$"], "cad", (1, 1)),
    known(&["hkd", "hk$"], "hkd", (1, 1)),
    known(&["sgd", "s$"], "sgd", (1, 1)),
    known(&["nzd", "nz$"], "nzd", (1, 1)),
    known(&["brl", "r$", "real"], "brl", (1, 1)),
    known(&["€", "eur", "euro"], "eur", (1, 1)),
    known(&["£", "gbp", "pound sterling"], "gbp", (1, 1)),
    known(&["pence", "penny"], "gbp", (1, 100)),
    known(&["pound"], "pound", (1, 1)),
    known(&["¥"], "yen sign", (1, 1)),
    known(&["jpy", "yen", "日元", "円"], "jpy", (1, 1)),
    known(&["cny", "rmb", "yuan", "元", "块"], "cny", (1, 1)),
    known(&["₹", "inr", "rs", "rs.", "rupee"], "inr", (1, 1)),
    known(&["₩", "krw", "won"], "krw", (1, 1)),
    known(&["₽", "rub", "ruble", "rouble"], "rub", (1, 1)),
    known(&["chf", "franc", "swiss franc"], "chf", (1, 1)),
];
/// Bases of which the first is said where one of the others is meant.
const LOOSE: [(&str, &[&str]); 4] = [
    ("deg", &["degc", "degf"]),
    ("pound", &["gbp", "g"]),
    ("yen sign", &["jpy", "cny"]),
    ("dollar", &["usd", "aud", "cad", "hkd", "sgd", "nzd"]),
];

/// The unit or currency of a name, singular or plural, in lower case.
pub(super) fn find(name: &str) -> Option<&'static Known> {
    let listed = |name: &str| KNOWN.iter().chain(&MONEY).find(|known| known.names.contains(&name));
    let spelled = name.replace("metre", "meter").replace("litre", "liter");
    let singular = spelled.strip_suffix('s').filter(|rest| rest.chars().count() > 1);
    listed(&spelled).or_else(|| listed(singular?))
}

/// Whether one base is said where the other is meant.
pub(super) fn are_loose(a: &str, b: &str) -> bool {
    LOOSE.iter().any(|(said, meant)| (*said == a && meant.contains(&b)) || (*said == b && meant.contains(&a)))
}
