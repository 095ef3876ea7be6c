//! Quantities in requests. JSON has one kind of number: a client may write 2 as `2.0`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};
use serde_json::Number;

use crate::model::{MAX_QUANTITY, ProcessType, Quantity};

/// Reads quantities of process types.
pub(super) fn quantities<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<BTreeMap<ProcessType, Quantity>, D::Error> {
    let given = BTreeMap::<ProcessType, Number>::deserialize(input)?;
    given
        .into_iter()
        .map(|(process_type, number)| {
            let wrong =
                || format!("{number} is not a quantity: write a whole number from 0 to {MAX_QUANTITY}");
            let whole = whole(&number).and_then(|whole| Quantity::try_from(whole).ok());
            Ok((process_type, whole.ok_or_else(|| de::Error::custom(wrong()))?))
        })
        .collect()
}

fn whole(number: &Number) -> Option<u32> {
    if let Some(whole) = number.as_u64() {
        return u32::try_from(whole).ok();
    }
    let bounds = 0.0..=f64::from(MAX_QUANTITY);
    // within the bounds nothing is lost
    number.as_f64().filter(|float| float.fract() == 0.0 && bounds.contains(float)).map(|float| float as u32)
}

#[cfg(test)]
mod tests {
    use super::super::ScaleRequest;

    #[test]
    fn a_quantity_is_a_whole_number_however_it_is_written() {
        let read = |number: &str| {
            let request = format!(r#"{{"Quantities":{{"web":{number}}}}}"#);
            let request = serde_json::from_str::<ScaleRequest>(&request);
            request
                .map(|request| request.quantities.values().next().unwrap().get())
                .map_err(|error| error.to_string())
        };
        for (written, meant) in [("3", 3), ("3.0", 3), ("1e3", 1000), ("0.0", 0)] {
            assert_eq!(read(written), Ok(meant));
        }
        for bad in ["1.5", "-1", "-1.0", "10001", "10001.0", "1e300", "\"3\"", "null"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("1.5").unwrap_err().starts_with("1.5 is not a quantity: write a whole number"));
    }
}
