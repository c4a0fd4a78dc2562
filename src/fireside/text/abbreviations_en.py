"""English abbreviations, months and names: tables of what is written and what is read."""

from __future__ import annotations

from fireside.text.word_set import word_set

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
MONTH_SHORT: dict[str, str] = {
    **{month[:3]: month for month in MONTHS},
    "Sept": "September",
}
WEEKDAY_SHORT: dict[str, str] = {
    **{"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday"},
    **{"Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"},
}

# Read in full wherever they stand with their dot (titles also without it).
TITLES: dict[str, str] = {
    **{"Mr": "mister", "Mrs": "missus", "Ms": "miz", "Messrs": "messers", "Prof": "professor"},
    **{"Gen": "general", "Col": "colonel", "Sgt": "sergeant", "Capt": "captain", "Lt": "lieutenant"},
    **{"Cpl": "corporal", "Cmdr": "commander", "Adm": "admiral", "Maj": "major", "Pvt": "private"},
    **{"Sen": "senator", "Rep": "representative", "Gov": "governor", "Rev": "reverend", "Pres": "president"},
    **{"Hon": "honorable", "Supt": "superintendent", "Fr": "father", "Mme": "madame", "Mlle": "mademoiselle"},
}
DOTTED: dict[str, str] = {
    **{"Jr": "junior", "Sr": "senior", "Esq": "esquire", "Inc": "incorporated", "Ltd": "limited"},
    **{
        "Co": "company",
        "Corp": "corporation",
        "Bros": "brothers",
        "Dept": "department",
        "Univ": "university",
    },
    **{"Assn": "association", "Ave": "avenue", "Blvd": "boulevard", "Rd": "road", "Ln": "lane"},
    **{"Hwy": "highway", "Pkwy": "parkway", "Ste": "suite", "Apt": "apartment", "Bldg": "building"},
    **{
        "Mt": "mount",
        "Ft": "fort",
        "Pt": "point",
        "Mtn": "mountain",
        "Natl": "national",
        "Intl": "international",
    },
    **{"approx": "approximately", "est": "established", "dept": "department", "govt": "government"},
    **{"vs": "versus", "etc": "et cetera", "viz": "namely", "cf": "compare", "al": "al", "ca": "circa"},
    **{"misc": "miscellaneous", "temp": "temperature", "max": "maximum", "min": "minimum", "avg": "average"},
    **{"qty": "quantity", "tel": "telephone", "ext": "extension", "incl": "including", "excl": "excluding"},
    **{"ed": "edition", "eds": "editors", "vol": "volume", "Vol": "volume", "vols": "volumes"},
    **{"Hts": "heights", "Sq": "square", "Pl": "place", "Ct": "court", "Cir": "circle", "Tel": "telephone"},
    **{"Attn": "attention", "attn": "attention", "Asst": "assistant", "asst": "assistant", "mgr": "manager"},
    **{"hr": "hour", "hrs": "hours", "mins": "minutes", "secs": "seconds", "yr": "year", "yrs": "years"},
    **{"wk": "week", "wks": "weeks", "mo": "month", "mos": "months", "lb": "pound", "lbs": "pounds"},
    **{"oz": "ounce", "in": "inches", "ft": "feet", "tbsp": "tablespoons", "tsp": "teaspoons"},
}
# These are also words, or end sentences: read in full only before a number.
BEFORE_NUMBER: dict[str, str] = {
    **{"b": "born", "No": "number", "no": "number", "Nos": "numbers", "nos": "numbers", "p": "page", "pp": "pages"},
    **{
        "Fig": "figure",
        "fig": "figure",
        "Figs": "figures",
        "Ch": "chapter",
        "ch": "chapter",
        "Eq": "equation",
    },
    **{"Sec": "section", "sec": "section", "c": "circa", "Art": "article", "Vol": "volume", "vol": "volume"},
    **{"Ex": "example", "Tab": "table", "par": "paragraph", "Nr": "number", "Op": "opus", "op": "opus"},
    **{"v": "version", "ver": "version", "Ver": "version", "rev": "revision", "pt": "part", "Pt": "part"},
}
# After a number these are units, and only there.
UNIT_ONLY = frozenset({"in", "ft", "oz", "lb", "lbs", "tbsp", "tsp", "hr", "hrs", "mins", "secs", "yr", "yrs"})
DOTTED_PHRASES: tuple[tuple[str, str], ...] = (
    (r"\be\.\s?g\.,?", "for example,"),
    (r"\bi\.\s?e\.,?", "that is,"),
    (r"\bet\s+al\.", "et al"),
    (r"\bPh\.\s?D\.?", "P H D"),
    (r"\b([MB])\.\s?D\.", r"\1 D"),
    (r"\bR\.\s?I\.\s?P\.", "R I P"),
    (r"\bw/o\b", "without"),
    (r"\bw/(?=\s|$)", "with"),
    (r"\bc/o\b", "care of"),
    (r"\bb/c\b", "because"),
    (r"\bn/a\b|\bN/A\b", "N A"),
    (r"\bWWII\b", "World War two"),
    (r"\bWWI\b", "World War one"),
    (r"\b(sq|cu)\.\s?(?=(?:ft|in|yd|mi|m|km)\b)", r"\1 "),
    (r"\b20/20\b", "twenty twenty"),
    (r"\b24/7\b", "twenty four seven"),
    (r"\b9/11\b", "nine eleven"),
)
STATES: dict[str, str] = {
    **{"AL": "Alabama", "AK": "Alaska", "AZ": "Arizona", "AR": "Arkansas", "CA": "California"},
    **{"CO": "Colorado", "CT": "Connecticut", "DE": "Delaware", "FL": "Florida", "GA": "Georgia"},
    **{"HI": "Hawaii", "ID": "Idaho", "IL": "Illinois", "IN": "Indiana", "IA": "Iowa", "KS": "Kansas"},
    **{"KY": "Kentucky", "LA": "Louisiana", "ME": "Maine", "MD": "Maryland", "MA": "Massachusetts"},
    **{"MI": "Michigan", "MN": "Minnesota", "MS": "Mississippi", "MO": "Missouri", "MT": "Montana"},
    **{"NE": "Nebraska", "NV": "Nevada", "NH": "New Hampshire", "NJ": "New Jersey", "NM": "New Mexico"},
    **{"NY": "New York", "NC": "North Carolina", "ND": "North Dakota", "OH": "Ohio", "OK": "Oklahoma"},
    **{"OR": "Oregon", "PA": "Pennsylvania", "RI": "Rhode Island", "SC": "South Carolina"},
    **{"SD": "South Dakota", "TN": "Tennessee", "TX": "Texas", "UT": "Utah", "VT": "Vermont"},
    **{"VA": "Virginia", "WA": "Washington", "WV": "West Virginia", "WI": "Wisconsin", "WY": "Wyoming"},
}
# A Roman numeral after these is a plain number ...
NUMBERED_NOUNS = word_set(
    """war chapter part act scene volume book phase type stage level class section article episode season
    appendix figure table title division grade group series bowl version mark game fantasy rocky grand theft
    auto apollo gemini saturn polaris round schedule unit module lesson exhibit list vatican category"""
)
# ... and after these an ordinal.
RULERS = word_set(
    """henry louis charles george edward william james richard elizabeth mary john philip philippe pius paul
    benedict nicholas alexander catherine peter frederick wilhelm leopold ferdinand francis napoleon gregory
    leo innocent clement urban boniface julius sixtus otto albert alfonso carlos felipe christian gustav olaf
    haakon harald constantine justinian theodosius ramses ramesses thutmose amenhotep ptolemy cleopatra darius
    xerxes artaxerxes cyrus mithridates antiochus suleiman murad mehmed selim ivan vlad robert david
    kenneth stephen victoria isabella joseph maximilian rudolf ludwig umberto emmanuel baudouin albrecht
    casimir sigismund bela matthias juan pedro afonso manuel rama"""
)
SPOKEN_SYMBOLS: dict[str, str] = {
    **{
        "&": "and",
        "@": "at",
        "+": "plus",
        "=": "equals",
        "±": "plus or minus",
        "×": "times",
        "÷": "divided by",
    },
    **{"≈": "is about", "≠": "is not equal to", "≤": "is at most", "≥": "is at least", "<": "is less than"},
    **{">": "is greater than", "√": "the square root of ", "π": "pi", "∞": "infinity", "%": "percent"},
    **{
        "‰": "per mille",
        "°": "degrees",
        "§": "section",
        "¶": "paragraph",
        "†": "",
        "‡": "",
        "•": ",",
        "·": " ",
    },
    **{
        "№": "number",
        "©": "copyright",
        "®": "",
        "™": "",
        "→": "to",
        "∑": "the sum of",
        "∫": "the integral of",
    },
    **{"µ": "micro", "μ": "mu", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "Δ": "delta"},
    **{"λ": "lambda", "σ": "sigma", "θ": "theta", "ω": "omega", "Ω": "omega", "∆": "delta", "ε": "epsilon"},
    **{"φ": "phi", "ψ": "psi", "ρ": "rho", "τ": "tau", "Σ": "sigma", "κ": "kappa", "η": "eta", "ν": "nu"},
}
