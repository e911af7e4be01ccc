# ruff: noqa: RUF001, SIM905
"""The names of units that an answer may use; what they are worth is pint's business.

A value is a name in pint's registry, or a name of `units.OWN` for what pint has otherwise. Symbols
are read in the case in which they are written, words in any case and with a plural s.
"""

from __future__ import annotations


def _table(text: str) -> dict[str, str]:
    """ "meter: m; inch: in inch" as {"m": "meter", "in": "inch", "inch": "inch"}."""
    entries = [entry.split(":") for entry in text.split(";")]
    return {name: unit.strip() for unit, names in entries for name in names.split()}


PREFIXES = {
    "f": "femto", "p": "pico", "n": "nano", "µ": "micro", "μ": "micro", "u": "micro",
    "m": "milli", "c": "centi", "d": "deci", "h": "hecto", "k": "kilo", "M": "mega", "G": "giga",
    "T": "tera", "P": "peta",
    "Ki": "kibi", "Mi": "mebi", "Gi": "gibi", "Ti": "tebi",
}  # fmt: skip
BINARY = ("kibi", "mebi", "gibi", "tebi")

# Symbols that take SI prefixes.
SI_SYMBOLS = _table(
    "meter: m; gram: g; second: s; ampere: A; kelvin: K; mole: mol; newton: N; joule: J;"
    "watt: W; pascal: Pa; volt: V; farad: F; henry: H; hertz: Hz; tesla: T; weber: Wb;"
    "liter: L l ℓ; electron_volt: eV; byte: B; bit: b bit; calorie: cal; ohm: Ω; coulomb: C;"
    "siemens: S; bar: bar; becquerel: Bq; sievert: Sv; gray: Gy; lumen: lm; lux: lx; molar: M;"
    "watt_hour: Wh; ampere_hour: Ah; parsec: pc; curie: Ci; candela: cd; volt_ampere: VA"
)
# Prefixed forms that nobody means: pH is a scale of acids, "hm" and "Ts" are no answers.
NEVER_PREFIXED = frozenset({"pH", "fl", "Gs", "Ts", "Ms", "hs", "cs", "ds", "PK", "TV", "PA"})

SYMBOLS = _table(
    "minute: min mins; hour: h hr hrs; second: sec secs; day: d; inch: in; foot: ft; yard: yd;"
    "mile: mi; pound: lb lbs; ounce: oz; gallon: gal; quart: qt; pint: pt; psi: psi;"
    "atmosphere: atm; mmHg: mmHg; torr: Torr torr; horsepower: hp; hectare: ha; light_year: ly;"
    "astronomical_unit: AU au; unified_atomic_mass_unit: amu; dalton: Da; angstrom: Å Å;"
    "nautical_mile: nmi; tablespoon: tbsp; teaspoon: tsp; milliliter: cc; gram: gm gms;"
    "kilogram: kgs Kg KG; kilometer: kms Km KM; centimeter: cms Cm CM; week: wk wks; year: yr yrs;"
    "month: mo mos; metric_ton: t; kilobyte: KB; kilobit: Kb; kilohertz: KHz khz; hertz: hz;"
    "kilowatt_hour: kwh KWh KWH; kilojoule: KJ kj; milliliter: ml; radian: rad rads; degree: deg"
    " °; revolution: rev revs; celsius: °C ℃ degC; fahrenheit: °F ℉ degF; decibel: dB;"
    "dyne: dyn; british_thermal_unit: BTU Btu; kilocalorie: Cal; gauss: G; steradian: sr;"
    "kelvin: °K; joule: j"
)
# Symbols for compounds; the text is read again as a unit.
COMPOUNDS = {
    "mph": "mile/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "km/hr": "km/h",
    "rpm": "rev/min", "rps": "rev/s", "fps": "ft/s", "mps": "m/s", "bps": "bit/s",
    "kbps": "kbit/s", "Mbps": "Mbit/s", "Gbps": "Gbit/s", "mpg": "mile/gallon",
    "Nm": "N m", "kNm": "kN m", "Ns": "N s", "Js": "J s", "Vs": "V s", "As": "A s",
    "ms^-1": "m s^-1", "ms^-2": "m s^-2", "kmh^-1": "km h^-1", "ms-1": "m s^-1",
    "ms-2": "m s^-2", "kgm^-3": "kg m^-3", "gcm^-3": "g cm^-3", "gmol^-1": "g mol^-1",
    "sqft": "ft^2", "sqm": "m^2", "sqkm": "km^2",
}  # fmt: skip

# Words that take SI prefixes ("kilometre"), and those that do not.
SI_WORDS = _table(
    "meter: meter metre; gram: gram gramme; second: second; ampere: ampere amp; kelvin: kelvin;"
    "mole: mole; newton: newton; joule: joule; watt: watt; pascal: pascal; volt: volt;"
    "farad: farad; henry: henry; hertz: hertz; tesla: tesla; weber: weber; liter: liter litre;"
    "electron_volt: electronvolt; byte: byte; bit: bit; calorie: calorie; ohm: ohm;"
    "coulomb: coulomb; siemens: siemens; bar: bar; becquerel: becquerel; sievert: sievert;"
    "lumen: lumen; candela: candela; parsec: parsec; watt_hour: watthour; gray: grays"
)
WORD_PREFIXES = (
    "femto", "pico", "nano", "micro", "milli", "centi", "deci", "hecto", "kilo", "mega", "giga",
    "tera", "peta", "kibi", "mebi", "gibi", "tebi",
)  # fmt: skip
WORDS = _table(
    "minute: minute; hour: hour; day: day; week: week; fortnight: fortnight;"
    "inch: inch inches; foot: foot feet; yard: yard; mile: mile; ounce: ounce; gallon: gallon;"
    "quart: quart; pint: pint; cup: cup; tablespoon: tablespoon; teaspoon: teaspoon;"
    "metric_ton: tonne; acre: acre; hectare: hectare; knot: knot; angstrom: angstrom;"
    "micron: micron; horsepower: horsepower; degree: degree; radian: radian;"
    "revolution: revolution; arcminute: arcminute; arcsecond: arcsecond; carat: carat;"
    "stone: stone; furlong: furlong; fathom: fathom; atmosphere: atmosphere; month: month;"
    "year: year; quarter_year: quarteryear; decade: decade; century: century centuries;"
    "millennium: millennium millennia; celsius: celsius centigrade; fahrenheit: fahrenheit;"
    "dyne: dyne; erg: erg; gauss: gauss; curie: curie; decibel: decibel; lux: lux; torr: torr;"
    "steradian: steradian"
)
PHRASES = {
    "degree celsius": "celsius", "degree centigrade": "celsius", "degree c": "celsius",
    "deg c": "celsius", "degree fahrenheit": "fahrenheit", "degree f": "fahrenheit",
    "deg f": "fahrenheit", "degree kelvin": "kelvin", "nautical mile": "nautical_mile",
    "light year": "light_year", "fluid ounce": "fluid_ounce", "fl oz": "fluid_ounce",
    "fl. oz": "fluid_ounce", "astronomical unit": "astronomical_unit", "electron volt":
    "electron_volt", "watt hour": "watt_hour", "kilowatt hour": "kilowatt_hour",
    "metric ton": "metric_ton", "long ton": "long_ton", "short ton": "short_ton",
    "minute of arc": "arcminute", "second of arc": "arcsecond",
}  # fmt: skip
# Names with more than one meaning: an answer may mean either.
AMBIGUOUS = {
    "ton": ("short_ton", "metric_ton", "long_ton"), "pound": ("pound", "GBP"),
    "ounce": ("ounce", "fluid_ounce"), "oz": ("ounce", "fluid_ounce"),
    "degree": ("degree", "celsius", "fahrenheit"), "¥": ("JPY", "CNY"), "￥": ("JPY", "CNY"),
    "分": ("minute", "CNY_fen"), "块": ("CNY", ""),
}  # fmt: skip

CHINESE = _table(
    "meter: 米 公尺 м метр метра метров; centimeter: 厘米 公分 см сантиметр сантиметра сантиметров;"
    "millimeter: 毫米 мм миллиметр миллиметра миллиметров; decimeter: 分米 дм;"
    "kilometer: 千米 公里 км километр километра километров; micrometer: 微米 мкм;"
    "nanometer: 纳米 нм; gram: 克 г грамм грамма граммов; kilogram: 千克 公斤 кг килограмм"
    " килограмма килограммов; milligram: 毫克 мг; metric_ton: 吨 т тонн тонна тонны; jin: 斤;"
    "second: 秒 秒钟 с сек секунд секунда секунды; minute: 分钟 мин минут минута минуты;"
    "hour: 小时 时 ч час часа часов; day: 天 日 день дня дней сутки суток; week: 周 星期 неделя"
    " недели недель; month: 个月 月 месяц месяца месяцев; year: 年 год года лет;"
    "liter: 升 л литр литра литров; milliliter: 毫升 мл; hectare: 公顷 га; degree: 度 градус"
    " градуса градусов; celsius: 摄氏度; newton: 牛 牛顿 Н ньютон; joule: 焦 焦耳 Дж; watt: 瓦 瓦特"
    " Вт; kilowatt: 千瓦 кВт; volt: 伏 伏特 В; ampere: 安 安培 А; ohm: 欧 欧姆 Ом; pascal: 帕 Па;"
    "hertz: 赫兹 Гц; kilojoule: 千焦 кДж; kilowatt_hour: 千瓦时;"
    "CNY: 元 圆 人民币 块钱; CNY_jiao: 角; USD: 美元 доллар доллара долларов; EUR: 欧元 евро;"
    "GBP: 英镑; HKD: 港元 港币; JPY: 日元 円; KRW: 韩元 원; RUB: рубль рубля рублей руб;"
    "RUB_kopeck: копейка копейки копеек коп"
)
# Words for "one of what is asked", without a meaning of their own.
COUNTERS = frozenset(
    "unit units 个 個 只 隻 条 條 张 張 本 支 枝 位 次 种 種 件 辆 棵 朵 头 匹 枚 颗 粒 根 台 间"
    " 组 名 道 份 把 座 所 片 盒 瓶 杯 箱 页 题 개 つ шт штук штука штуки".split()
)
# A counter of these changes the number: a pair is two, 倍 is "times".
CHANGING_COUNTERS = frozenset({"对", "双", "倍", "成", "折", "分之一", "раз", "раза"})
